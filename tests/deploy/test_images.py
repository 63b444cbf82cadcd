"""The two images: what they are built of, as whom they run, and that the service's set works."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
IMAGES = ("service", "worker")
BUILD_SECONDS = 200  # some fifty wheels over a slow line

each_image = pytest.mark.parametrize("image", IMAGES)


def dockerfile(image: str) -> str:
    """The text of an image's Dockerfile, with continued lines joined and without comments."""
    text = (DEPLOY / f"{image}.Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(lines).replace("\\\n", " ")


def instructions(image: str, word: str) -> list[str]:
    return re.findall(rf"^{word} +(.+)$", dockerfile(image), re.MULTILINE)


def arguments(image: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in instructions(image, "ARG"))
    return {name: value.strip('"') for name, _, value in pairs}


def copied(image: str) -> list[str]:
    """What is copied out of the repository, as paths from its root."""
    lines = [one.split() for one in instructions(image, "COPY") if not one.startswith("--from")]
    return [source for words in lines for source in words[:-1]]


@each_image
def test_hadolint_has_nothing_to_say(image: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    assert hadolint.exists(), "hadolint is missing; install the extra `test`"
    done = subprocess.run(
        [hadolint, "--no-color", DEPLOY / f"{image}.Dockerfile"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@each_image
def test_every_base_is_pinned_to_a_version(image: str) -> None:
    stages: set[str] = set()
    bases = []
    for line in instructions(image, "FROM"):
        base, _, stage = line.partition(" AS ")
        if base not in stages:
            bases.append(arguments(image).get(base.strip("${}"), base))
        stages.add(stage)
    assert bases
    for base in bases:
        assert re.fullmatch(r"[a-z/]+:[\w.-]*\d+\.\d+[\w.-]*", base), f"{base} is not pinned"


@each_image
def test_an_image_is_made_of_files_that_are_there(image: str) -> None:
    missing = [source for source in copied(image) if not (ROOT / source).exists()]
    assert not missing


@each_image
def test_the_build_sees_what_it_copies_and_no_more(image: str) -> None:
    ignore = (DEPLOY / f"{image}.Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line.removeprefix("!") for line in rules if line.startswith("!")}
    assert allowed == set(copied(image))


@each_image
def test_all_packages_of_the_wheel_come_into_the_image(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) <= set(copied(image))


@each_image
def test_an_image_runs_as_a_numbered_user_who_owns_the_folder_of_the_storage(image: str) -> None:
    # Kubernetes believes in `runAsNonRoot` only where the user is a number.
    assert instructions(image, "USER") == ["10001:10001"]
    made = next(line for line in instructions(image, "RUN") if "useradd" in line)
    assert "--uid 10001 " in made
    assert "install --directory --owner 10001 --group 10001 /var/lib/strata" in made


def test_the_service_is_probed_at_the_port_that_it_opens() -> None:
    text = dockerfile("service")
    assert instructions("service", "EXPOSE") == ["8080"]
    assert "STRATA_PORT=8080" in text
    assert "http://127.0.0.1:8080/healthz" in text


def test_who_trains_can_compile() -> None:
    """`training.compile` needs a compiler on the node, and on a GPU Python's headers, too."""
    [runtime] = [line for line in instructions("worker", "RUN") if " g++ " in line]
    assert " python3-dev " in runtime
    stages = dockerfile("worker").split("FROM ")[1:]
    assert stages[-1].startswith("python\n"), "the image is made of the stage that has them"
    assert runtime in stages[0]


def test_the_service_knows_the_authorities_of_the_system() -> None:
    """psycopg's own OpenSSL does not: `sslmode=verify-full&sslrootcert=system` needs the word."""
    assert "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" in dockerfile("service")


def test_both_images_carry_the_same_drivers_of_storages() -> None:
    drivers = {arguments(image)["STORAGE_DRIVERS"] for image in IMAGES}
    assert len(drivers) == 1
    fsspec = re.search(r"^fsspec==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert fsspec is not None
    assert drivers == {f"s3fs=={fsspec[1]}"}, "the drivers and fsspec are released together"


@pytest.mark.tools  # not for its tools: it fetches fifty wheels
@pytest.mark.timeout(BUILD_SECONDS + 60)
def test_the_services_set_works_without_ray_and_torch(tmp_path: Path) -> None:
    source = tmp_path / "build"
    for name in copied("service"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, source / name)
    install = next(line for line in instructions("service", "RUN") if "pip install" in line)
    install = install.replace("${STORAGE_DRIVERS}", arguments("service")["STORAGE_DRIVERS"])
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=60)
    bin_folder = tmp_path / "venv" / "bin"
    environment = {"PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": str(tmp_path)}

    def run(words: list[str], **more: str) -> str:
        done = subprocess.run(
            [str(bin_folder / words[0]), *words[1:]],
            cwd=source if words[0] == "pip" else tmp_path,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(install.split())
    installed = {line.partition("==")[0].lower() for line in run(["pip", "freeze"]).splitlines()}
    assert {"sqlalchemy", "s3fs", "redis"} <= installed
    assert not {"ray", "torch", "numpy", "scikit-learn"} & installed

    assert "db" in run(["strata", "--help"])
    database = f"sqlite:///{tmp_path}/strata.db"
    assert "schema" in run(["strata", "db", "upgrade"], STRATA_DATABASE_URL=database)
    assert (tmp_path / "strata.db").stat().st_size > 0
    run(["strata", "db", "check"], STRATA_DATABASE_URL=database)
