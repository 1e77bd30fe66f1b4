"""``--sweep``: a rung with other values of its tunables, side by side.

Every combination of values is a build of its own (workbench.toolchain.variants), checked on small
cases and then measured as a rung is. The user's files are only read, unless the word ``best`` asks
for the best values to be written into them.

plan       what the command line asks for
outcome    what became of each combination, and which is the best
measuring  building, checking, measuring
table      the tables; heat, the heat maps
best       the values in the user's files
command    all of it
"""
