"""A real Slurm on this machine, without systemd: munge, a controller, two nodes with two fake GPUs each."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue")

CONFIG = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthInfo=socket={root}/munge.sock,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
PlugStackConfig={root}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=2
SlurmdTimeout=15
KillWait=2
MinJobAge=86400
MaxArraySize={array_size}
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{preemption_signal}
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=8 RealMemory=16000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=8 RealMemory=16000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why no cluster can be started here; None where one can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing): apt-get install slurm-wlm munge"
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.mknod(Path(folder) / "gpu", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            return "Slurm's daemons and its fake GPUs need root"
    return None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Cluster:
    """Started on entering; `environment` is what a shell on its login node has."""

    def __init__(self, array_size: int = 1001, warns_of_preemption: bool = True) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="cbs-slurm-"))  # munge wants a folder that all may enter
        self.root.chmod(0o755)
        host = socket.gethostname().split(".")[0]
        port, port1, port2 = _free_ports(3)
        for name in ("state", "log", "n1", "n2"):
            (self.root / name).mkdir()
        (self.root / "plugstack.conf").touch()
        (self.root / "munge.key").write_bytes(secrets.token_bytes(1024))
        (self.root / "munge.key").chmod(0o600)
        for number in range(2):
            os.mknod(self.root / f"gpu{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        (self.root / "gres.conf").write_text(f"Name=gpu File={self.root}/gpu[0-1]\n")
        signal_line = "SlurmctldParameters=preempt_send_user_signal" if warns_of_preemption else ""
        text = CONFIG.format(
            root=self.root,
            host=host,
            port=port,
            port1=port1,
            port2=port2,
            array_size=array_size,
            preemption_signal=signal_line,
        )
        (self.root / "slurm.conf").write_text(text)
        self.environment = {**os.environ, "SLURM_CONF": str(self.root / "slurm.conf")}

    def __enter__(self) -> Cluster:
        root = self.root
        munge = [f"--{name}={root}/munge.{end}" for name, end in (("key-file", "key"), ("socket", "sock"))]
        munge += [
            f"--pid-file={root}/munged.pid",
            f"--log-file={root}/log/munged.log",
            f"--seed-file={root}/munge.seed",
        ]
        subprocess.run(["munged", "--force", *munge], check=True)
        self.start_controller()
        for node in ("n1", "n2"):
            self.start_node(node)
        self.wait(lambda: self.ask("sinfo", "-h", "-N", "-t", "idle").count("idle") >= 2, 60, "two idle nodes")
        return self

    def __exit__(self, *_: object) -> None:
        self.ask("scancel", "-u", "root", check=False)
        for node in ("n1", "n2"):
            self.kill_node(node)
        for name in ("slurmctld", "munged"):
            self._kill(self.root / f"{name}.pid", signal.SIGKILL)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd().startswith(str(self.root)):
                    process.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def start_controller(self) -> None:
        subprocess.run(["slurmctld"], env=self.environment, check=True)
        self.wait(lambda: "UP" in self.ask("scontrol", "ping", check=False), 30, "the controller")

    def stop_controller(self) -> None:
        self._kill(self.root / "slurmctld.pid", signal.SIGTERM)

    def start_node(self, node: str) -> None:
        subprocess.run(["slurmd", "-N", node], env=self.environment, check=True)

    def kill_daemon(self, node: str) -> None:
        """SIGKILL a node's daemon; its jobs go on."""
        self._kill(self.root / f"slurmd-{node}.pid", signal.SIGKILL)

    def kill_node(self, node: str) -> None:
        """SIGKILL everything of a node at once, as a power cut does: daemon, step daemons and jobs."""
        self.kill_daemon(node)
        mine = {"SLURM_CONF": self.environment["SLURM_CONF"], "SLURMD_NODENAME": node}
        jobs = [p for p in psutil.process_iter(["environ"]) if mine.items() <= (p.info["environ"] or {}).items()]
        steps = {parent for job in jobs for parent in job.parents() if parent.name().startswith("slurmstepd")}
        # Step daemons first: they must not live to tell the controller that their jobs ended.
        for process in (*steps, *jobs):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _kill(self, pid_file: Path, number: int) -> None:
        try:
            process = psutil.Process(int(pid_file.read_text()))
            process.send_signal(number)
            process.wait(30)
        except (FileNotFoundError, ValueError, psutil.Error):
            pass

    def ask(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def queue(self) -> list[str]:
        """The states of every task in the queue."""
        return self.ask("squeue", "-h", "-r", "-o", "%T").split()

    def wait(self, until: object, seconds: float, what: str) -> None:
        """Wait until a condition holds; fail with the daemons' last words."""
        deadline = time.monotonic() + seconds
        while not until():  # type: ignore[operator]
            if time.monotonic() > deadline:
                words = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in (self.root / "log").glob("*"))
                raise AssertionError(f"no {what} within {seconds} s\n{words}")
            time.sleep(0.2)

    def wait_until_empty(self, seconds: float = 240) -> None:
        self.wait(lambda: not self.queue(), seconds, "empty queue")


@contextmanager
def cluster(**options: object) -> Iterator[Cluster]:
    with Cluster(**options) as running:  # type: ignore[arg-type]
        yield running
