"""A Python that has the libraries loaded: its processes are forked from one that has imported them.

Starting fresh, a notebook's kernel, papermill and the command line spend most of a small run on importing
torch, timm and matplotlib. One server does it once. What is started in Python's place is a small client,
which hands its files, environment and folder to the server and stays as the process's stand-in: signals go
through it, and its end is the process's.

    python warm.py serve SOCKET OWNER       # the server; it ends with the process OWNER
    python warm.py SOCKET -m module …       # the client; also -c code …
"""

import atexit
import contextlib
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback

LIBRARIES = (
    "torch._dynamo",
    "torchvision",
    "timm",
    "pandas",
    "seaborn",
    "matplotlib.pyplot",
    "ipykernel.kernelapp",
    "IPython.core.pylabtools",
    "matplotlib_inline.backend_inline",
    "papermill.cli",
    "nbval.plugin",
)
FORWARDED = (signal.SIGINT, signal.SIGTERM)


def become(arguments: list[str], environment: dict[str, str], folder: str, files: list[int]) -> None:
    """Be what a Python started with these arguments, environment, folder and files would be, to its end."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    added = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [folder, *added]
    encoding, _, errors = environment.get("PYTHONIOENCODING", "").partition(":")
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), encoding or None, errors or None)
    sys.executable = environment.get("WARM_PYTHON", sys.executable)  # what it starts is warm, too
    option, what, *rest = arguments
    sys.argv = [option, *rest]
    leave(outcome(option, what))


def outcome(option: str, what: str) -> object:
    """Run a module or code as the main one; return what it exits with."""
    try:
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))
    except SystemExit as asked:
        return asked.code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(code: object) -> None:
    """Exit, but leave what is loaded as it is: taking it apart takes a forked process seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def attend(client: socket.socket) -> int:
    """Fork the process that a client asks for, pass signals on, and return how it ended."""
    said, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
    if not (child := os.fork()):
        client.close()
        os.setsid()
        become(*json.loads(said), files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(child)
    while ended not in (ready := select.select([client, ended], [], [])[0]):
        number = client.recv(1) if client in ready else b""
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:  # the client is gone
            break
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve(path: str, owner: int) -> None:
    """Import the libraries, and fork an attendant for each client until the owner is gone."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel has it
    for library in LIBRARIES:
        __import__(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # attendants end unnoticed
    gc.freeze()  # a collection in a forked process would copy all of it
    alive = os.pidfd_open(owner)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.new")
        server.listen()
        os.rename(f"{path}.new", path)  # who finds it can connect
        while alive not in select.select([server, alive], [], [])[0]:
            client, _ = server.accept()
            if not os.fork():
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                code = attend(client)
                with contextlib.suppress(BrokenPipeError):  # the client was killed
                    client.sendall(json.dumps(code).encode())
                os._exit(0)
            client.close()


def stand_in(path: str, arguments: list[str]) -> int:
    """Have the server fork a process; return its exit status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        said = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
        socket.send_fds(server, [said], [0, 1, 2])
        for number in FORWARDED:
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        return int(server.recv(64) or 1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(stand_in(sys.argv[1], sys.argv[2:]))
