"""A mistake: a replacement in a ladder file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One mistake: ``old`` becomes ``new`` in a file of the ladder of ``op``.

    Attributes:
        op: the operator.
        rung: the rung to check.
        old: the text to replace, at its first occurrence after ``behind``.
        new: what replaces it.
        behind: text before it, which identifies the function.
        touches: other rungs that the edit changes: "rung" of ``op``, or "operator/rung".
        shape: the check's, with options; empty for SHAPES.
        layout: the check's; empty for the operator's first.
        tensor: the tensor that is accessed out of bounds, if one is.
        line_of: text in the line at fault, after ``behind``; empty for the edited line.
        file: in kernels/; empty for <op>.cu.
        says: a pattern that is in the report because of this edit and no other.
        kernel: whether it changes the kernel, rather than the inputs it is given.
    """

    op: str
    rung: str
    old: str
    new: str
    behind: str = ""
    touches: tuple[str, ...] = ()
    shape: str = ""
    layout: str = ""
    tensor: str = ""
    line_of: str = ""
    file: str = ""
    says: str = ""
    kernel: bool = True

    @property
    def name(self) -> str:
        return f"{self.op}-{self.rung}-{self.old} -> {self.new or 'nothing'}"

    @property
    def source(self) -> str:
        return self.file or f"{self.op}.cu"

    def changed(self) -> set[str]:
        """The rungs that the edit changes, as "operator/rung"."""
        if not self.kernel:
            return {f"{self.op}/what {self.rung} takes"}
        rungs = (self.rung, *self.touches)
        return {rung if "/" in rung else f"{self.op}/{rung}" for rung in rungs}

    def apply(self, text: str) -> str:
        at = self._find(text, self.old, self._start(text))
        return text[:at] + self.new + text[at + len(self.old) :]

    def line(self, text: str) -> int:
        """The line at fault, the same before and after the edit."""
        at = self._find(text, self.line_of or self.old, self._start(text))
        return text.count("\n", 0, at) + 1

    def _start(self, text: str) -> int:
        return self._find(text, self.behind, 0) + len(self.behind)

    def _find(self, text: str, part: str, start: int) -> int:
        at = text.find(part, start)
        assert at >= 0, f"{self.source} has no {part!r} after {self.behind!r}: update this test"
        return at
