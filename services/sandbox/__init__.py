"""Child processes for bytes that cannot be trusted: media, tables and model folders.

pool.py       Sandbox: runs a function in a child, within limits; a child that dies is replaced
worker.py     one child, seen from both sides
limits.py     what a task may use, and how the kernel enforces it
transfer.py   arguments and results between the two, large ones through shared memory
media.py, models.py   the tasks of several services
"""
