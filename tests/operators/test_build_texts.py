"""The texts that a build was made from, and which of them a rung depends on."""

import dataclasses
import re

import pytest

from workbench import operators
from workbench.operators import builds, texts
from workbench.toolchain import kernels_dir

TARGETS = [(op, "simulator") for op in operators.OPERATORS] + [("attention", "cpu")]


@pytest.mark.parametrize(("op", "place"), TARGETS, ids=lambda value: value)
def test_a_ladder_has_the_texts_of_its_files_and_of_what_they_include(op, place):
    found = builds.texts(op, place)
    folder = kernels_dir()
    assert list(found.files)[0] == builds.sources(op, place)[0].name
    assert {file.name for file in builds.sources(op, place)} <= found.files.keys()
    for name, text in found.files.items():
        assert text == (folder / name).read_bytes()
        included = re.findall(rb'^#include "(.*)"', text, re.M)
        assert {included_.decode() for included_ in included} <= found.files.keys()


@pytest.mark.parametrize(("op", "place"), TARGETS, ids=lambda value: value)
def test_a_rung_depends_on_the_file_of_its_kernel(op, place):
    found = builds.texts(op, place)
    ladder = builds.rungs(op, place)
    assert found.own.keys() == {rung.name for rung in ladder}
    table = builds.sources(op, place)[0]
    for rung in ladder:
        names = found.own[rung.name]
        home = table.with_name(f"{op}_{rung.name}{table.suffix}")
        if place == "cpu":
            home = table.with_name(f"{op}_{rung.name}{table.suffix}".replace("_cpu_cpu", "_cpu"))
        if home.exists():
            assert names[0] == home.name
        assert f"{op}_{rung.name}(" in (table.parent / names[0]).read_text()
        kernels = [name for name in names if name.endswith(table.suffix)]
        assert len(kernels) == 1 or rung.composed_of
        for other in rung.composed_of:
            assert builds.sources(other)[0].name in kernels


class Files:
    """A kernels folder, and a compiler that somebody edits it under."""

    def __init__(self, folder, monkeypatch, edits):
        self.file = folder / "a.cu"
        self.edits = edits
        (folder / "a.cuh").write_bytes(b"header")
        self.save(0)
        self.builds = 0
        monkeypatch.setattr(texts, "load_extension", self.build)

    def save(self, number):
        self.file.write_bytes(b'#include "a.cuh"\n#include <vector>\n// %d' % number)

    def build(self, target, kernels, bindings):
        self.builds += 1
        if self.builds <= self.edits:
            self.save(self.builds)
        return kernels / f"{self.builds}.so"


@pytest.mark.parametrize("edits", [0, 1, 2])
def test_a_file_that_is_saved_while_it_compiles_is_compiled_again(tmp_path, monkeypatch, edits):
    files = Files(tmp_path, monkeypatch, edits)
    path, found = texts.built("simulator", tmp_path)
    assert path.name == f"{edits + 1}.so"
    assert found[files.file].content == files.file.read_bytes()
    assert found[tmp_path / "a.cuh"].content == b"header"
    assert len(found) == 2


def test_texts_that_change_all_the_time_are_unknown(tmp_path, monkeypatch):
    Files(tmp_path, monkeypatch, 99)
    assert texts.built("simulator", tmp_path)[1] == {}


def test_what_is_saved_after_the_build_is_not_what_was_built(tmp_path):
    build = builds.extension("simulator")
    for file in kernels_dir().glob("transpose*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    moved = {
        tmp_path / path.name: dataclasses.replace(
            text, includes=tuple(tmp_path / include.name for include in text.includes)
        )
        for path, text in build.texts.items()
    }
    with builds.using(dataclasses.replace(build, kernels=tmp_path, texts=moved)):
        before = builds.texts("transpose", "simulator")
        (tmp_path / "transpose.cu").write_text("saved during the run")
        (tmp_path / "transpose_new.cu").write_text("new")
        assert builds.texts("transpose", "simulator") == before
    assert before.files["transpose.cu"] == (kernels_dir() / "transpose.cu").read_bytes()


def test_a_launcher_that_is_not_found_is_in_any_of_the_files(tmp_path):
    rung = builds.Rung("x", "odd", ("float32",))
    files = [tmp_path / "x.cu", tmp_path / "x_more.cu"]
    read = {file: texts.Text(b'{"odd", macro_made}', ()) for file in files}
    found = texts.of_ladder([rung], files, {}, read, tmp_path)
    assert found.own == {"odd": ("x.cu", "x_more.cu")}
