"""Edits are compiled by the rules that PyTorch wrote, while PyTorch is imported."""

import sys
import time

import pytest

from tests.support import REPO, Project, finished, python
from workbench import ahead
from workbench.toolchain import BuildError, by_torch, library
from workbench.toolchain.extension import extension_recipe


@pytest.fixture
def recipe(project: Project):
    """The recipe of a project whose rules are there."""
    made = extension_recipe("simulator", project.kernels, project.bindings)
    project.build()
    if not by_torch.Rules(made).are_there():  # after another test's changes
        project.edit_bindings(f"// {time.time_ns()}")
        project.build()
    return made


def refuse(*arguments, **settings):
    raise AssertionError("PyTorch's load() was called")


def test_an_edit_needs_no_load(project: Project, recipe, monkeypatch):
    monkeypatch.setattr(library, "by_torch", refuse)
    project.set_answer(21)
    assert project.answer() == 21


@pytest.mark.parametrize("what", ["a new source", "changed rules"])
def test_what_needs_load_again(what, project: Project, recipe, monkeypatch):
    if what == "a new source":
        (project.kernels / "second.cu").write_text("int second() { return 2; }\n")
    else:
        file = recipe.folder / "build.ninja"
        file.write_text(f"{file.read_text()}# changed\n")
    calls = []

    def noted(recipe):
        calls.append(recipe)
        return by_torch.by_torch(recipe)

    monkeypatch.setattr(library, "by_torch", noted)
    project.edit_bindings(f"// with {what}")
    assert project.answer() == 1
    assert len(calls) == 1


def test_an_error_of_the_compiler_is_none_of_the_rules(project: Project, recipe, monkeypatch):
    monkeypatch.setattr(library, "by_torch", refuse)
    project.set_answer("nonsense")
    with pytest.raises(BuildError, match='identifier "nonsense" is undefined'):
        project.build()
    project.set_answer(22)
    assert project.answer() == 22


@pytest.fixture
def of_project(project: Project, recipe, monkeypatch):
    """What ``build_ahead`` builds is the project."""
    monkeypatch.setattr(library, "extension_recipe", lambda target, *_: recipe)
    monkeypatch.setattr(library, "by_torch", refuse)


def test_the_build_waits_for_the_one_that_began_earlier(project: Project, of_project, monkeypatch):
    project.set_answer(23)
    made = []
    real = library._load
    monkeypatch.setattr(library, "_load", lambda *words: made.append(words) or real(*words))
    library.build_ahead("simulator")
    assert project.answer() == 23
    assert len(made) == 1


def test_its_error_is_that_of_the_build(project: Project, of_project, capfd):
    project.set_answer("bad_name")
    library.build_ahead("simulator")
    with pytest.raises(BuildError, match='identifier "bad_name" is undefined'):
        project.build()


def test_an_edit_meanwhile_is_built_afterwards(project: Project, of_project):
    project.set_answer(24)
    library.build_ahead("simulator")
    library._Ahead.running.thread.join()
    project.set_answer(25)
    assert project.answer() == 25


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("", "simulator"),
        ("--kernel tiled", "simulator"),
        ("--target simulator", "simulator"),
        ("--target=cpu", "cpu"),
        ("--target gpu", None),
        ("--target", None),
        ("--target nonsense", None),
        ("--help", None),
        ("-h", None),
    ],
)
def test_the_target_of_a_command_line(words, chosen, monkeypatch):
    monkeypatch.setattr(ahead, "_GPU", ())
    assert ahead._target(words.split()) == chosen


def test_with_a_gpu_nothing_is_built_ahead(monkeypatch):
    monkeypatch.setattr(ahead, "_GPU", ("/dev/null",))
    assert ahead._target([]) is None
    assert ahead._target(["--target", "simulator"]) == "simulator"


def test_only_scripts_build_ahead():
    """And they do so without PyTorch."""
    program = (
        "import sys; sys.argv = ['x']; import __main__; __main__.__file__ = {!r}\n"
        "from workbench.toolchain import library\n"
        "library.build_ahead = lambda target: print(target, 'torch' in sys.modules)\n"
        "import workbench.ahead"
    )
    for file, out in ((REPO / "test_matmul.py", "simulator False\n"), (REPO / "build.py", "")):
        assert finished(python("-c", program.format(str(file))))[:2] == (0, out)
    assert "workbench.ahead" in sys.modules  # here, under pytest, without doing anything
