"""Runs the commands of the documentation's pages in forks of one process.

`command_server.py SOCKET CACHE` imports once what all commands need, then forks for every request
of `command_client.py`: `vireid` and `torchrun` run the command line, shrunk by `stand_ins`, and
`python` a script or a block. A command of `elsewhere` succeeds without running. Exit code 97: no
test runs the command.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path

import elsewhere
import stand_ins
import torch
import torch._dynamo
import torch.distributed as dist
import torch.utils.tensorboard
from torch.distributed.run import get_args_parser

from vireid_fast import cli
from vireid_fast.engine import workflow  # noqa: F401

UNKNOWN = 97


def serve(path: str, cache: Path) -> None:
    """Answer requests until the process is ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(connection, cache)
            connection.close()


def _answer(connection: socket.socket, cache: Path) -> None:
    data, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    request = json.loads(data)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(request["cwd"])
    name, *arguments = request["argv"]
    code = _exit_code(lambda: _run(name, arguments, cache))
    connection.sendall(str(code).encode())
    os._exit(0)


def _exit_code(work) -> int:
    code = 0
    try:
        code = work() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    return code


def _run(name: str, arguments: list[str], cache: Path) -> int | None:
    if " ".join([name, *arguments]) in elsewhere.COMMANDS:
        return None
    if name not in ("vireid", "torchrun", "python", "python3"):
        print(f"no test runs: {name} {' '.join(arguments)}", file=sys.stderr)
        return UNKNOWN
    if name == "torchrun":
        return _torchrun(arguments, cache)
    if name == "vireid":
        return _vireid(arguments, cache)
    return _python(name, arguments, cache)


def _vireid(arguments: list[str], cache: Path) -> None:
    # What a command makes has no stand-in.
    made = {"--run", "-r", "--out"} if "--resume" not in arguments else {"--out"}
    reads = arguments[0] not in ("train", "pretrain", "synth")
    given = zip(["", *arguments], arguments, strict=False)
    named = [word for before, word in given if before not in made or (reads and before != "--out")]
    stand_ins.provide(" ".join(named), cache)
    sys.argv = ["vireid", *stand_ins.shrink(arguments)]
    cli.main()


def _python(name: str, arguments: list[str], cache: Path) -> int | None:
    if arguments[:2] == ["-m", "vireid_fast"]:
        return _vireid(arguments[2:], cache)
    if not arguments or not arguments[0].endswith(".py"):
        print(f"no test runs: {name} {' '.join(arguments)}", file=sys.stderr)
        return UNKNOWN
    stand_ins.provide(f"{Path(arguments[0]).read_text()}\n{' '.join(arguments)}", cache)
    sys.argv = arguments
    sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
    runpy.run_path(arguments[0], run_name="__main__")
    return None


def _torchrun(arguments: list[str], cache: Path) -> int:
    """The processes of torchrun, with the environment that it gives them."""
    options = get_args_parser().parse_args(arguments)
    count = int(options.nproc_per_node)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    command = [*(["-m"] if options.module else []), options.training_script]
    command += options.training_script_args
    stand_ins.provide(" ".join(command), cache)
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            os.environ |= {
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
                "WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank),
                "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
            }  # fmt: skip
            os._exit(_exit_code(lambda: _python("torchrun", command, cache)))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return next((abs(code) for code in codes if code), 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(sys.argv[1], Path(sys.argv[2]))
