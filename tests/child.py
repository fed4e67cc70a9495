"""Run the command line in this process; `harness` sets the upper-case names."""

from __future__ import annotations

import os
import sys

for path, stream in ((OUT, 1), (ERR, 2)):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, stream)
    os.close(descriptor)
os.environ.update(ENV)
os.chdir(CWD)
sys.argv = ["fedloge", *ARGS]

from fedloge.commands.main import main  # noqa: E402

main()
