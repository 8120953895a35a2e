"""docker/: linted, held against the Compose specification, and complete enough to build the package.

Nothing is started, for no Docker, Slurm or Kubernetes need be here; docker/README.md says what was tried.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.__main__ import main
from sweeper.compose import compose, read_config

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"
CLUSTER = ROOT / "docker" / "cluster.yaml"
KUBERAY = ROOT / "docker" / "kuberay.yaml"
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
SCRIPTS = sorted((ROOT / "docker").glob("*.sh"))
TOOLS = Path(sys.executable).parent


def instructions() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile with its arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def services(file: Path = COMPOSE) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text())["services"])


both_files = pytest.mark.parametrize("file", [COMPOSE, CLUSTER], ids=lambda file: file.name)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(TOOLS)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is packaged for Linux on x86-64 alone")
    run = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


@both_files
def test_compose_file_follows_the_compose_specification(file: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    run = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_base_image_is_pinned_and_the_same_in_both_stages() -> None:
    bases = [arguments.split()[0] for name, arguments in instructions() if name == "FROM"]
    assert set(bases) == {"python:${PYTHON}-slim-bookworm"}
    assert ("ARG", "PYTHON=3.12") in instructions()


def test_container_is_not_root() -> None:
    assert [arguments for name, arguments in instructions() if name == "USER"] == ["1000:1000"]


def test_every_installation_follows_the_constraints_file() -> None:
    runs = [arguments for name, arguments in instructions() if name == "RUN"]
    installs = [line for run in runs for line in re.findall(r"pip install [^|;&]*", run)]
    assert len(installs) >= 4
    assert all("-c constraints.txt" in line for line in installs)


def test_what_the_dockerfile_copies_builds_a_package_with_all_of_conf(tmp_path: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, arguments in instructions():
        if name == "COPY" and "--from" not in arguments:
            *sources, target = arguments.split()
            assert set(sources) <= allowed, f".dockerignore keeps {sources} out of the build"
            for source in sources:
                place = tmp_path / "src" / target / ("" if (ROOT / source).is_dir() else source)
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                place.parent.mkdir(parents=True, exist_ok=True)
                copy(ROOT / source, place)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    run = subprocess.run(
        [*build, "-w", tmp_path, tmp_path / "src"], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {f"sweeper/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")} <= packed
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "sweeper").rglob("*.py")} <= packed


def test_sweep_and_ui_share_one_volume_and_one_image() -> None:
    assert set(services()) == {"sweep", "ui"}
    assert {tuple(service["volumes"]) for service in services().values()} == {("sweeps:/work/sweeps",)}
    assert len({service["image"] for service in services().values()}) == 1
    assert ("VOLUME", "/work/sweeps") in instructions()


def test_services_run_commands_that_sweeper_knows(capsys: pytest.CaptureFixture[str]) -> None:
    read_config(compose(services()["sweep"]["command"]))
    verb, *options = services()["ui"]["command"]
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    usage = capsys.readouterr().out
    assert all(option in usage for option in options if option.startswith("--"))
    assert not any("entrypoint" in service for service in services().values())
    assert ("ENTRYPOINT", '["python", "-m", "sweeper"]') in instructions()


def test_the_ui_is_allowed_to_listen_at_the_containers_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(services(COMPOSE)["ui"]["command"]) == 2
    assert "there is no sweeps/mlflow.db" in capsys.readouterr().err, "and nothing else is missing"


@both_files
def test_nothing_is_published_beyond_this_machine(file: Path) -> None:
    ports = [port for service in services(file).values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:5000:5000"]
    assert not any("network_mode" in service for service in services(file).values())


@both_files
def test_services_have_no_privileges(file: Path) -> None:
    for service in services(file).values():
        assert "privileged" not in service
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


@both_files
def test_no_image_is_called_latest(file: Path) -> None:
    named = [service["image"] for service in services(file).values()]
    named += [arguments for name, arguments in instructions() if name == "FROM"]
    assert all(":" in name and ":latest" not in name for name in named)


# A cluster


def words(service: dict[str, Any]) -> list[str]:
    """What a service runs, entrypoint and arguments."""
    return [*service.get("entrypoint", []), *service["command"]]


def starts() -> list[list[str]]:
    """The arguments of every `ray start` below docker/."""
    found = [words(services(CLUSTER)[name])[2:] for name in ("head", "worker")]
    for file in (CLUSTER, KUBERAY, ROOT / "docker" / "README.md"):
        lines = re.findall(r"^ *ray start (--[^>#\n]*)", file.read_text(), re.MULTILINE)
        found += [line.split() for line in lines]
    return found


def test_ray_knows_every_option_that_it_is_started_with() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    assert len(starts()) == 6
    (script,) = (file.read_text() for file in SCRIPTS if "symmetric-run" in file.read_text())
    (options,) = re.findall(r"ray symmetric-run (.*?) -- ", script.replace("\\\n", ""))
    given = re.sub(r"\$\w+", "1", options.replace('"', "")).split()
    assert "--min-nodes" in given
    for arguments in [*starts(), curate_and_validate_ray_start_args(given)]:
        context = start.make_context("ray start", list(arguments))
        assert context.params["head"] or context.params["include_dashboard"] is None, "is the head's alone"
        assert context.params["dashboard_host"] in ("localhost", "127.0.0.1")


def test_the_sweep_of_a_cluster_is_composed_as_it_stands_there() -> None:
    (job,) = (tree for tree in yaml.safe_load_all(KUBERAY.read_text()) if tree["kind"] == "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    sweep = services(CLUSTER)["sweep"]
    in_compose, in_job = sweep["entrypoint"][2], container["command"][2]
    for script, own in ((in_compose, sweep["command"]), (in_job, container["args"])):
        (rest,) = re.findall(r"exec python -m sweeper \"\$+@\"(.*)", script.replace("\\\n", ""))
        executor = read_config(compose([*own, *rest.split()]))[0].executor
        assert (executor.name, executor.address, executor.workers) == ("ray", "auto", 2)
    for file in SCRIPTS:
        (usage,) = re.findall(r"sbatch docker/\S+ (.*)", file.read_text())
        read_config(compose(usage.split()))


def test_secrets_of_a_cluster_come_from_files_and_stay_out_of_arguments() -> None:
    tree = yaml.safe_load(CLUSTER.read_text())
    assert all(list(secret) == ["environment"] for secret in tree["secrets"].values())
    for service in services(CLUSTER).values():
        given = {key for key in service.get("environment", {}) if re.search("PASSWORD|TOKEN", key)}
        assert given <= {"RAY_AUTH_TOKEN_PATH", "POSTGRES_PASSWORD_FILE", "HF_TOKEN"}
    reads = {n for n, service in services(CLUSTER).items() if "postgres_password" in service["secrets"]}
    assert reads == {"postgres", "mlflow", "sweep"}, "nodes on which trials are trained don't"
    commands = re.findall(r"exec (?:.*\\\n)*.*", CLUSTER.read_text())
    assert len(commands) == 2
    assert not any("password" in command for command in commands)


def test_nodes_of_a_cluster_share_the_folder_of_sweeps() -> None:
    for name in ("head", "worker", "sweep"):
        assert "sweeps:/work/sweeps" in services(CLUSTER)[name]["volumes"]
        assert services(CLUSTER)[name]["environment"]["RAY_AUTH_MODE"] == "token"
    _, cluster, job = yaml.safe_load_all(KUBERAY.read_text())
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    pods = [job["spec"]["template"], cluster["spec"]["headGroupSpec"]["template"]]
    for pod in [*pods, *(group["template"] for group in cluster["spec"]["workerGroupSpecs"])]:
        (container,) = pod["spec"]["containers"]
        assert container["volumeMounts"] == [{"name": "sweeps", "mountPath": "/work/sweeps"}]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert cluster["spec"]["rayVersion"] in re.findall(r"^ray==(.*)$", CONSTRAINTS, re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_reads_the_scripts(script: Path) -> None:
    run = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "set -euo pipefail" in script.read_text()
