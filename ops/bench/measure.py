"""Reading what the kernel knows of processes, and waiting."""

import pathlib
import socket
import time


def cpu_ns(pid):
    """Run time of all threads of a process and of its children."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    own = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    return own + sum(cpu_ns(child) for child in children(pid))


def resident_mib(pid):
    """Resident memory of a process and of its children."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024 + sum(resident_mib(child) for child in children(pid))
    raise RuntimeError("the kernel does not tell the memory of a process")


def children(pid):
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name stands in parentheses and may hold anything; the parent is the
            # second word after it.
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended while we looked.
        if parent == str(pid):
            yield stat.parent.name


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for_port(port):
    def open_():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(open_)


def wait_until(holds, seconds=30, every=0.05):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to pass in time")
        time.sleep(every)
