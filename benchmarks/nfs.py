"""Checkpoints on real NFS and SMB shares: a server and two kernel clients, in a virtual machine.

Run, as root on Debian with ``apt-get install --no-install-recommends qemu-system-x86
busybox-static nfs-kernel-server kmod iproute2 linux-image-amd64``: ``python benchmarks/nfs.py
[3|4.2|smb3.1.1 [DRILL …]]`` (SMB: ``samba cifs-utils`` too). The kernel may lie elsewhere:
``TILEVISION_GUEST_KERNEL`` names a folder with ``boot`` and ``lib/modules``. The guest sees this
machine's files, read only; server and clients are network namespaces in it. It asserts its rules
and prints its figures; times say little, since the guest is emulated. Not part of CI; it says what
is missing where it cannot run.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

PROGRAMS = (
    "qemu-system-x86_64",
    "busybox",
    "cpio",
    "modprobe",
    "rpc.nfsd",
    "rpc.mountd",
    "rpcbind",
    "ip",
)
MODULES = ("9p", "9pnet_virtio", "virtio_pci", "virtio_blk", "ext4", "veth")
NFS_MODULES = ("nfsd", "nfsv4", "nfsv3")
SMB_MODULES = (
    *("nls_utf8", "cmac", "ghash_generic", "seqiv", "ccm", "gcm", "ctr", "ecb"),
    *("sha512_generic", "cifs"),
)
SMB = """
[global]
server role = standalone server
map to guest = Bad User
disable spoolss = yes
lock directory = /run/samba
state directory = /run/samba
cache directory = /run/samba
private dir = /run/samba
pid directory = /run/samba
ncalrpc dir = /run/samba/ncalrpc
log file = /run/samba/log
strict sync = yes
[disk]
path = /mnt/disk
guest ok = yes
read only = no
force user = root
"""
KERNEL = Path(os.environ.get("TILEVISION_GUEST_KERNEL", "/"))
MINUTES = 40
TILES = 16
KILLS, SMB_KILLS = 50, 8  # after each, the other SMB client may wait for the file for long
BEAT, STALE = 2.0, 8.0
INIT = """#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
busybox mount -t proc none /proc; busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
for module in $(busybox cat /modules/order); do busybox insmod /modules/$module; done
busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=loose,ro host /host
for place in tmp run mnt var/lib/nfs; do busybox mount -t tmpfs none /host/$place; done
for place in proc sys dev; do busybox mount --move /$place /host/$place; done
exec busybox chroot /host /bin/sh -c "{command}"
"""


# The host ---------------------------------------------------------------------------------------


def missing(*, smb: bool) -> str:
    """Return what the drill lacks here; empty if nothing."""
    wanted = (*PROGRAMS, *(("smbd", "mount.cifs") if smb else ()))
    lack = [name for name in wanted if shutil.which(name) is None]
    if not list((KERNEL / "boot").glob("vmlinuz-*")):
        lack.append("a kernel below /boot")
    if os.geteuid() != 0:
        lack.append("root")
    return ", ".join(lack)


def guest(folder: Path, wanted: str) -> int:
    """Boot the guest; return what the drill in it returned."""
    kernel = max((KERNEL / "boot").glob("vmlinuz-*"))
    initramfs(folder, kernel.name.partition("-")[2], wanted)
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(256 * 2**20)
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", str(disk)], check=True
    )
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]
    command += ["-m", "3G", "-nographic", "-no-reboot", "-nic", "none", "-kernel", str(kernel)]
    command += ["-initrd", str(folder / "initramfs"), "-append", "console=ttyS0 quiet panic=-1"]
    command += ["-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"]
    command += [
        "-virtfs",
        "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
    ]
    verdict = 1
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as qemu:
        late = threading.Timer(60 * MINUTES, qemu.kill)
        late.start()
        for line in qemu.stdout or ():
            text = line.decode("utf-8", "replace").rstrip()
            print("   ", text, flush=True)
            verdict = 0 if text.endswith("the drill has passed") else verdict
        late.cancel()
    return verdict


def initramfs(folder: Path, release: str, wanted: str) -> None:
    """Write a file system with busybox, the modules, and what is run first."""
    root = folder / "root"
    for name in ("bin", "modules", "proc", "sys", "dev", "host"):
        (root / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin" / "busybox")
    order: list[str] = []
    smb = wanted.startswith("smb")
    for module in (*MODULES, *(SMB_MODULES if smb else NFS_MODULES)):
        asked = ["modprobe", "-d", str(KERNEL), "-S", release, "--show-depends", module]
        answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        for line in answer.splitlines():
            path = Path(line.split()[1]) if line.startswith("insmod") else None
            if path is not None and path.name not in order:
                shutil.copy(path, root / "modules" / path.name)
                order.append(path.name)
    (root / "modules" / "order").write_text("\n".join(order))
    paths = f"PYTHONPATH={os.environ.get('PYTHONPATH', '')} HOME=/tmp PATH={os.environ['PATH']}"
    command = f"{paths} {sys.executable} -B {Path(__file__).resolve()} --guest {wanted}"
    (root / "init").write_text(
        INIT.format(command=f"{command}; echo b > /proc/sysrq-trigger; sleep 9")
    )
    (root / "init").chmod(0o755)
    find = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True)
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        cwd=root, input=find.stdout, capture_output=True, check=True,
    )  # fmt: skip
    (folder / "initramfs").write_bytes(gzip.compress(packed.stdout, 1))


# The guest --------------------------------------------------------------------------------------


def sh(*command: str, check: bool = True) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and answer.returncode:
        raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")
    return answer.stdout


def serve() -> None:
    """Mount the server's disk, and lead a network to each client."""
    Path("/mnt/disk").mkdir()
    sh("mount", "/dev/vda", "/mnt/disk")
    sh("ip", "link", "set", "lo", "up")
    for number, name in enumerate("ab", start=1):
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "addr", "add", f"10.9.{number}.1/24", "dev", f"to-{name}")
        sh("ip", "link", "set", f"to-{name}", "up")
        sh("ip", "-n", name, "addr", "add", f"10.9.{number}.2/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            sh("ip", "-n", name, "link", "set", device, "up")


def serve_nfs() -> None:
    """Start the kernel's NFS server."""
    for place in ("/var/lib/nfs/v4recovery", "/var/lib/nfs/rpc_pipefs", "/run/rpc_pipefs"):
        Path(place).mkdir(parents=True)
    for name in ("etab", "rmtab", "xtab"):
        Path("/var/lib/nfs", name).touch()
    sh("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
    for number in (1, 2):
        where = f"10.9.{number}.2:/mnt/disk"
        sh("exportfs", "-o", "rw,sync,no_root_squash,fsid=0,no_subtree_check,insecure", where)
    sh("rpcbind")
    sh("rpc.mountd", "-p", "20048")
    Path("/proc/fs/nfsd/nfsv4leasetime").write_text("10")
    Path("/proc/fs/nfsd/nfsv4gracetime").write_text("10")
    sh("rpc.nfsd", "8")


def serve_smb() -> None:
    """Start samba."""
    Path("/run/samba/ncalrpc").mkdir(parents=True)
    Path("/run/samba/smb.conf").write_text(SMB)
    sh("smbd", "--daemon", "--configfile=/run/samba/smb.conf")
    time.sleep(5.0)


class ShareClient:
    """A host with a mount of its own, and a process there that does what it is asked.

    Parameters
    ----------
    name : str
        Of the host, and of its network namespace.
    version : str
        Of the protocol.
    """

    def __init__(self, name: str, version: str) -> None:
        self.name, self.version = name, version
        server = f"10.9.{'ab'.index(name) + 1}.1"
        options = f"vers={version},hard,timeo=20" + (
            ",nolock,port=2049,mountport=20048,mountproto=tcp,proto=tcp" if version == "3" else ""
        )
        source = f"{server}:/mnt/disk" if version == "3" else f"{server}:/"
        mount = f"mount.nfs {source} /mnt/nfs -o {options}"
        if version.startswith("smb"):
            options = f"guest,hard,vers={version.removeprefix('smb')}"
            mount = f"mount.cifs //{server}/disk /mnt/nfs -o {options}"
        script = (
            f"hostname {name}; mkdir -p /mnt/nfs; {mount} && "
            f"exec {sys.executable} -B {Path(__file__).resolve()} --client"
        )
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "-m", "-u", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._turn = threading.Lock()

    def ask(self, what: str, **arguments: Any) -> Any:
        """Have a function of `HERE` called on this host; return what it returns."""
        with self._turn:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.write(json.dumps([what, arguments]) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or '{"error": "it ended"}')
        if "error" in answer:
            raise RuntimeError(f"client {self.name}, {what}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        """End its process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# A client ---------------------------------------------------------------------------------------

SHARE = Path("/mnt/nfs/ck")
_children: dict[int, int] = {}


def records(owner: str, number: int) -> dict[str, tuple[bytes, ...]]:
    """Return a batch: keys and records of about 2 KB that nobody else writes."""
    import hashlib

    batch = {}
    for tile in range(TILES):
        name = f"{owner} {number} {tile}"
        seed = random.Random(name)
        boxes = [[seed.randrange(512) for _ in range(4)] for _ in range(100)]
        text = json.dumps({"tile": name, "boxes": boxes}, separators=(",", ":"))
        batch[hashlib.sha256(name.encode()).hexdigest()] = (text.encode(),)
    return batch


def begin(owner: str, count: int = 10**9) -> int:
    """Fork a writer, which says which of its batches are acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(write(owner, count, writing))
    os.close(writing)
    _children[child] = reading
    return child


def write(owner: str, count: int, to: int) -> int:
    """Commit batches; write the number of each to a pipe once it is acknowledged."""
    from tilevision.checkpoint import Checkpoint
    from tilevision.errors import CheckpointError

    try:
        with Checkpoint.open(SHARE) as checkpoint:
            for number in range(count):
                checkpoint.commit(records(owner, number))
                os.write(to, b"%d\n" % number)
    except CheckpointError as error:
        os.write(to, f"error {error}\n".encode())
        return 1
    return 0


def told(child: int, kill: bool = False) -> tuple[int, str]:
    """Wait for a writer, or kill it; return how many batches it had acknowledged, and its error."""
    if kill:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(_children.pop(child), "rb") as pipe:
        lines = pipe.read().decode().split("\n")[:-1]
    os.waitpid(child, 0)
    error = lines.pop() if lines and lines[-1].startswith("error") else ""
    return len(lines), error


def check(batches: list[tuple[str, int]]) -> int:
    """Assert that all batches are there, byte for byte; return how many records that are."""
    from tilevision.checkpoint import Checkpoint

    count = 0
    with Checkpoint.open(SHARE) as checkpoint:
        for owner, acknowledged in batches:
            for number in range(acknowledged):
                wanted = records(owner, number)
                found = dict(checkpoint.load(list(wanted)))
                assert found == wanted, f"batch {number} of {owner}: {len(found)} of {TILES}"
                count += len(found)
    return count


def form() -> dict[str, Any]:
    """Open the folder; return its form and what the file system promises."""
    from dataclasses import asdict

    from tilevision.checkpoint import Checkpoint
    from tilevision.checkpoint.trial import try_out

    with Checkpoint.open(SHARE):
        pass
    store = json.loads((SHARE / "meta.json").read_text())["store"]
    return {"store": store, "tried": str(asdict(try_out(SHARE.parent)))}


def calls(count: int) -> dict[str, float]:
    """Return the calls to the server, and seconds, that a commit takes."""
    from tilevision.checkpoint import Checkpoint

    with Checkpoint.open(SHARE) as checkpoint:
        checkpoint.commit(records("warm", 0))
        before, seconds = _operations(), []
        for number in range(count):
            batch = records("calls", number)
            began = time.perf_counter()
            checkpoint.commit(batch)
            seconds.append(time.perf_counter() - began)
        after = _operations()
    spent = {name: (after[name] - before[name]) / count for name in after}
    return {name: n for name, n in spent.items() if n} | {"ms": 1000 * median(seconds)}


def _operations() -> dict[str, int]:
    counts, mine = {}, False
    for line in Path("/proc/self/mountstats").read_text().splitlines():
        words = line.split()
        if line.startswith("device"):
            mine = "/mnt/nfs" in words
        elif mine and len(words) > 8 and words[0].endswith(":") and words[0][:-1].isupper():
            counts[words[0][:-1]] = int(words[1])
    return counts


def hold() -> int:
    """Fork an owner of a run who commits until the run is taken over, and once more then."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        from tilevision.checkpoint import Checkpoint, RunLock, lease

        lease.BEAT_SECONDS, lost = BEAT, list[str]()
        held = RunLock(SHARE, "run", lost.append)
        held.acquire()
        with Checkpoint.open(SHARE) as checkpoint:
            number = 0
            while not lost:
                checkpoint.commit(records("owner", number))
                os.write(writing, b"%d\n" % number)
                number += 1
                time.sleep(0.1)
            checkpoint.commit(records("late", 0))
        os.write(writing, f"error {lost[0]}\n".encode())
        os._exit(0)
    os.close(writing)
    _children[child] = reading
    assert os.read(reading, 2)  # the first commit: it holds the run
    return child


def stop(child: int, number: int) -> None:
    os.kill(child, number)


def take() -> dict[str, Any]:
    """Try to own the run until it is free; return what was said first, and how long it took."""
    from tilevision.checkpoint import RunLock, lease
    from tilevision.errors import RunBusy

    lease.BEAT_SECONDS, lease.STALE_SECONDS = BEAT, STALE
    began, said, lock = time.monotonic(), "", RunLock(SHARE, "run")
    while True:
        try:
            lock.acquire()
        except RunBusy as busy:
            said = said or str(busy)
            time.sleep(0.2)
            continue
        return {"said": said, "seconds": time.monotonic() - began}


def journal(lines: int) -> int:
    """Fork a writer of a run's journal, each line with the time."""
    from tilevision.events import Journal, RunChanged, journal_path

    child = os.fork()
    if child == 0:
        manifest = {"id": "told", "started": time.time(), "n_tiles": 0}
        with Journal.begin(journal_path(SHARE, "told"), manifest, 1) as written:
            for _ in range(lines):
                written(RunChanged(time.time(), "running"))
                time.sleep(0.2)
        os._exit(0)
    return child


def follow(lines: int) -> list[float]:
    """Return how late each line of the journal is seen here."""
    from tilevision.events import JournalTail, journal_path

    tail, late = JournalTail(journal_path(SHARE, "told")), list[float]()
    until = time.monotonic() + 120
    while len(late) < lines and time.monotonic() < until:
        late += [time.time() - event.time for event in tail.read()]
        time.sleep(0.05)
    return late


HERE: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (begin, told, check, form, calls, hold, stop, take, journal, follow)
}


def client() -> None:
    """Do what is asked, line by line; import what writers need before they are forked."""
    import tilevision.checkpoint
    import tilevision.events

    assert tilevision.checkpoint and tilevision.events
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        what, arguments = json.loads(line)
        try:
            answer = {"value": HERE[what](**arguments)}
        except Exception as error:  # noqa: BLE001 it is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


# The drill --------------------------------------------------------------------------------------


def killed(a: ShareClient, b: ShareClient) -> dict[str, Any]:
    """Kill a writer many times at random moments; the other host has all it acknowledged."""
    chance, acknowledged = random.Random(17), list[tuple[str, int]]()
    kills = SMB_KILLS if a.version.startswith("smb") else KILLS
    for kill in range(kills):
        owner = f"killed {kill}"
        child = a.ask("begin", owner=owner)
        time.sleep(chance.uniform(0.1, 1.5))
        acknowledged.append((owner, a.ask("told", child=child, kill=True)[0]))
        last = acknowledged[-1:]
        assert b.ask("check", batches=last) == TILES * last[0][1]
    whole = b.ask("check", batches=acknowledged)
    return {"kills": kills, "acknowledged": TILES * sum(n for _, n in acknowledged), "there": whole}


def two_writers(a: ShareClient, b: ShareClient) -> dict[str, Any]:
    """Have both hosts write at once; what either acknowledged is there for the other."""
    children = [host.ask("begin", owner=f"both {host.name}", count=30) for host in (a, b)]
    counts = [host.ask("told", child=child) for host, child in zip((a, b), children, strict=True)]
    batches = [(f"both {host.name}", n) for host, (n, _) in zip((a, b), counts, strict=True)]
    there = [host.ask("check", batches=batches) for host in (a, b)]
    assert there == [TILES * 60] * 2
    return {"acknowledged": TILES * 60, "there": there}


def stolen(a: ShareClient, b: ShareClient) -> dict[str, Any]:
    """Stop an owner: it is named, taken over once its beats are missed, and notices."""
    child = a.ask("hold")
    busy = threading.Timer(3.0, lambda: a.ask("stop", child=child, number=signal.SIGSTOP))
    began = time.monotonic()
    busy.start()
    taken = b.ask("take")
    assert " on a" in taken["said"], taken
    assert time.monotonic() - began >= 3.0 + STALE - BEAT
    a.ask("stop", child=child, number=signal.SIGCONT)
    count, lost = a.ask("told", child=child)
    assert "taken over" in lost and " on b" in lost, lost
    return {
        "refused with": taken["said"],
        "seconds from the stop to the takeover": taken["seconds"] - 3.0,
        "the owner's last words": lost,
        "there": b.ask("check", batches=[("owner", count), ("late", 1)]),
    }


def torn(a: ShareClient, b: ShareClient) -> dict[str, Any]:
    """Cut the last segment anywhere: what was whole before the cut is there, and more goes in."""
    chance, kept = random.Random(3), list[int]()
    for cut in range(5):
        owner = f"torn {cut}"
        before = set(Path("/mnt/disk/ck/segments").iterdir())
        a.ask("told", child=a.ask("begin", owner=owner, count=8))
        (new,) = set(Path("/mnt/disk/ck/segments").iterdir()) - before
        whole = new.stat().st_size
        os.truncate(new, whole - chance.randrange(1, whole // 8))
        assert b.ask("check", batches=[(owner, 6)]) == TILES * 6
        kept.append(6)
    a.ask("told", child=a.ask("begin", owner="after", count=2))
    return {"cuts": 5, "there": TILES * sum(kept), "later": b.ask("check", batches=[("after", 2)])}


def restarted(a: ShareClient, b: ShareClient) -> dict[str, Any]:
    """Stop the server (NFS) for six seconds while a host writes."""
    child = a.ask("begin", owner="restarted", count=60)
    time.sleep(1.0)
    began = time.monotonic()
    sh("rpc.nfsd", "0")
    time.sleep(6.0)
    sh("rpc.nfsd", "8")
    count, error = a.ask("told", child=child)
    assert count == 60 and not error, (count, error)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "there": b.ask("check", batches=[("restarted", 60)])}


def full(a: ShareClient, b: ShareClient) -> dict[str, Any]:
    """Fill the server's disk: the writer is told so, nothing is lost, and space lets it go on."""
    free = shutil.disk_usage("/mnt/disk").free
    ballast = Path("/mnt/disk/ballast")
    with ballast.open("wb") as file:
        for _ in range(max(0, free - 2 * 2**20) // 2**20):
            file.write(bytes(2**20))
        file.flush()
        os.fsync(file.fileno())
    count, error = a.ask("told", child=a.ask("begin", owner="full"))
    assert "Free some space" in error or "free" in error, error
    there = b.ask("check", batches=[("full", count)])
    ballast.unlink()
    more, again = a.ask("told", child=a.ask("begin", owner="space", count=5))
    assert (more, again) == (5, ""), again
    b.ask("check", batches=[("full", count), ("space", 5)])
    return {"acknowledged": TILES * count, "there": there, "said": error}


def followed(a: ShareClient, b: ShareClient) -> dict[str, Any]:
    """Follow from one host the journal that the other writes."""
    a.ask("journal", lines=60)
    late = sorted(b.ask("follow", lines=60))
    assert len(late) == 60, len(late)
    return {"lines": 60, "median s late": median(late), "most": late[-1]}


DRILLS = (killed, two_writers, stolen, torn, restarted, full, followed)


def inside(version: str, *names: str) -> None:
    """Carry out the drills in the guest: those that are named, or all."""
    serve()
    serve_smb() if version.startswith("smb") else serve_nfs()
    a, b = ShareClient("a", version), ShareClient("b", version)
    print("share", version, a.ask("form"), flush=True)
    print("a commit of 16 records:", a.ask("calls", count=40), flush=True)
    for drill in DRILLS:
        if names and drill.__name__ not in names:
            continue
        if drill is restarted and version.startswith("smb"):
            continue
        began = time.monotonic()
        figures = drill(a, b)
        print(f"{drill.__name__} ({time.monotonic() - began:.0f} s): {figures}", flush=True)
    a.close()
    b.close()
    print("the drill has passed", flush=True)


def main() -> None:
    """Boot the guest, or do in it what belongs there."""
    if sys.argv[1:2] == ["--guest"]:
        inside(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--client"]:
        client()
        return
    if lack := missing(smb="smb" in "".join(sys.argv[1:2])):
        raise SystemExit(f"Skipped: this needs {lack}.")
    with tempfile.TemporaryDirectory(prefix="nfs-drill-") as name:
        raise SystemExit(guest(Path(name), " ".join(sys.argv[1:] or ["4.2"])))


if __name__ == "__main__":
    main()
