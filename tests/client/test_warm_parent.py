"""The warm parent in a process of its own: what its children are given, and what becomes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import os, signal, sys, time
from fedloge.client.warm_parent import WarmParent

seen = []
def answer():
    seen.append(1)
    asked = sys.argv[1]
    if asked == "say":
        print(sys.argv[0], sys.argv[2:], os.getcwd(), os.environ.get("MARK"), len(seen))
        print("to stderr", file=sys.stderr)
        sys.exit(7)
    if asked == "break":
        raise RuntimeError("broken on purpose")
    if asked == "wait":
        signal.signal(signal.SIGTERM, lambda *_: (print("told to end", flush=True), sys.exit(3)))
        print("waits", os.getpid(), flush=True)
        time.sleep(60)
sys.exit(WarmParent(answer).run(["sh", "-c", sys.argv[1]], os.environ))
"""

WAITING = "flwr-clientapp wait > out & until grep -q waits out; do sleep .1; done"
"""A program whose child waits for a signal, in the background of a shell."""


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )


def run(script: str, folder: Path) -> tuple[int, str, str]:
    process = start(script, folder)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_child_has_its_callers_arguments_environment_folder_and_streams(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    script = "cd elsewhere; MARK='a b' flwr-clientapp say --token 'x y' 2>../err; echo code $?"
    code, out, err = run(script, tmp_path)
    assert code == 0 and err == ""
    said, ended = out.splitlines()
    assert said == f"flwr-clientapp ['--token', 'x y'] {tmp_path / 'elsewhere'} a b 1"
    assert ended == "code 7"
    assert (tmp_path / "err").read_text() == "to stderr\n"


def test_nothing_of_one_message_is_left_for_the_next(tmp_path: Path) -> None:
    _, out, _ = run("flwr-clientapp say; flwr-clientapp say", tmp_path)
    assert [line.rpartition(" ")[2] for line in out.splitlines()] == ["1", "1"]


def test_children_answer_at_once_and_the_command_gives_the_exit_code(tmp_path: Path) -> None:
    script = "flwr-clientapp say & flwr-clientapp say & wait; exit 5"
    code, out, _ = run(script, tmp_path)
    assert code == 5 and len(out.splitlines()) == 2


def test_a_child_that_breaks_shows_why_and_ends_with_1(tmp_path: Path) -> None:
    _, out, err = run("flwr-clientapp break; echo code $?", tmp_path)
    assert out == "code 1\n" and "RuntimeError: broken on purpose" in err


def test_only_its_user_can_open_the_socket_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    script = "d=$(dirname $(command -v flwr-clientapp)); echo $d; stat -c %a $d $d/socket"
    _, out, _ = run(script, tmp_path)
    folder, *modes = out.split()
    assert modes == ["700", "600"]
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGTERM, "code 3\n"), (signal.SIGINT, "code 130\n")]
)
def test_a_signal_to_the_program_reaches_its_child(tmp_path: Path, number: int, ends: str) -> None:
    script = f"{WAITING}; kill -{int(number)} $!; wait $!; echo code $?"
    _, out, _ = run(script, tmp_path)
    assert out == ends
    assert ("told to end" in (tmp_path / "out").read_text()) == (number == signal.SIGTERM)


def test_a_killed_program_takes_its_child_with_it(tmp_path: Path) -> None:
    script = f"{WAITING}; kill -9 $!; wait $!; cat out"
    _, out, _ = run(script, tmp_path)
    assert gone(int(out.split()[1]))


def test_the_end_of_the_command_ends_the_children_that_are_left(tmp_path: Path) -> None:
    code, _, _ = run(WAITING, tmp_path)
    waits, pid, told = (tmp_path / "out").read_text().split(maxsplit=2)
    assert code == 0 and waits == "waits" and told == "told to end\n"
    assert gone(int(pid))


def test_a_signal_to_the_parent_goes_to_the_command(tmp_path: Path) -> None:
    process = start("trap 'echo ends; exit 9' TERM; echo up; while :; do sleep .1; done", tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (9, "ends\n")


def test_the_signal_that_ended_the_command_is_in_the_exit_code(tmp_path: Path) -> None:
    assert run("kill -9 $$", tmp_path)[0] == 137


def test_a_request_that_cannot_be_read_is_refused_and_others_go_on(tmp_path: Path) -> None:
    rubbish = (
        f'{sys.executable} -c "import socket,os;s=socket.socket(socket.AF_UNIX);'
        "s.connect(os.path.dirname(os.popen('command -v flwr-clientapp').read().strip())+'/socket');"
        "s.sendall(b'nothing at all')\""
    )
    code, out, err = run(f"{rubbish}; flwr-clientapp say 2>/dev/null; echo code $?", tmp_path)
    assert "cannot be read was refused (0 streams, expected 3)" in err
    assert code == 0 and out.endswith("code 7\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_the_temporary_folder_need_not_let_programs_run(tmp_path: Path) -> None:
    folder = tmp_path / "noexec"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        script = "flwr-clientapp say 2>/dev/null; echo code $?"
        done = subprocess.run(
            [sys.executable, "-c", PARENT, script],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        assert done.stdout.endswith("code 7\n"), done.stderr
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_without_a_warm_parent_the_program_says_what_runs_one() -> None:
    program = Path(sys.executable).with_name("fedloge-clientapp")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no warm parent answers" in done.stderr and "'fedloge superexec' runs one" in done.stderr
