"""What the compiler made of a kernel: ``--ptx``, ``--sass``, ``--resources`` (docs/code.md).

compiled.py    from a source to PTX, and from there to machine code and its disassembly
code.py        instructions, loops, what they are made of
ptx.py         PTX as text into these
sass.py        a disassembly into these
terminal.py    prints them: in the order of the code beside the source, or line by line
command.py     the options --ptx and --sass
resources.py   the option --resources
"""
