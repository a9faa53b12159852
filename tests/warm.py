"""Notebook kernels that begin with the libraries loaded: forked from a process that has imported them.

Starting fresh, a kernel spends most of a smoke run on importing torch, timm and matplotlib. One server does
it once. What Jupyter starts in a kernel's place is a small client, which hands its files, environment and
folder to the server and stays as the kernel's stand-in: signals go through it, and its end is the kernel's.

    python warm.py serve SOCKET          # the server
    python warm.py SOCKET -f CONNECTION  # the client: a kernel
"""

import json
import os
import select
import signal
import socket
import sys

LIBRARIES = (
    "torch._dynamo",
    "torchvision",
    "timm",
    "pandas",
    "seaborn",
    "matplotlib.pyplot",
    "ipykernel.kernelapp",
    "IPython.core.pylabtools",
)
FORWARDED = (signal.SIGINT, signal.SIGTERM)


def kernel(arguments: list[str], environment: dict[str, str], folder: str, files: list[int]) -> None:
    """Become the kernel that a process with these arguments, environment, folder and files would be."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = ["ipykernel_launcher", *arguments]
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


def attend(client: socket.socket) -> int:
    """Fork the kernel that a client asks for, pass signals on, and return how it ended."""
    said, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
    if not (child := os.fork()):
        client.close()
        os.setsid()
        kernel(*json.loads(said), files)
        os._exit(0)
    ended = os.pidfd_open(child)
    while ended not in (ready := select.select([client, ended], [], [])[0]):
        number = client.recv(1) if client in ready else b""
        os.kill(child, number[0] if number else signal.SIGKILL)
        if not number:  # the client is gone
            break
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve(path: str) -> None:
    """Import the libraries, and fork an attendant for each client."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel has it
    for library in LIBRARIES:
        __import__(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # attendants end unnoticed
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            client, _ = server.accept()
            if not os.fork():
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                code = attend(client)
                client.sendall(json.dumps(code).encode())
                os._exit(0)
            client.close()


def stand_in(path: str, arguments: list[str]) -> int:
    """Have the server fork a kernel; return its exit status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        said = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
        socket.send_fds(server, [said], [0, 1, 2])
        for number in FORWARDED:
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        return int(server.recv(64) or 1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(stand_in(sys.argv[1], sys.argv[2:]))
