"""The rows of docs/soundness.md on kernels that this machine does not run.

    archive   the packages of some kernels, from the Debian mirror that apt is configured with
    image     one disk with Python, this checkout and the victims; what each kernel needs to boot
    machine   an emulated machine that boots a kernel from both; what it says comes by serial lines
    guest     what runs in it: pytest, and a line for each test
    table     rows x kernels, and whether anything is wrong
    run       all of it: `make test-kernels`

Nothing is installed and nothing of the host is changed: the disk is thrown away, and hardware
virtualisation is not asked for.
"""
