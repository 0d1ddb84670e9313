"""Who may use Prefect's UI and API of a machine that is up: who knows the login, and no page of another site."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from connectors.errors import Misconfigured
from deployments.dispatcher import Dispatcher
from deployments.prefect_server import login_of
from deployments.processes import Running, free_port
from deployments.up import tell_where
from tasks.installation import Installation, open_installation

ROOT = Path(__file__).parents[2]
USER, PASSWORD = "operator", "kept-in-the-environment-alone"
ELSEWHERE = "https://elsewhere.example"


@dataclass(frozen=True)
class Up:
    """A machine that was brought up with a login, in a folder that Kvit made."""

    home: Path
    port: int
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        """Return a client of Prefect's API that knows the login, and nothing more than that."""
        return httpx.Client(base_url=f"{self.url}/api", auth=(USER, PASSWORD), timeout=30, **options)

    @contextmanager
    def operator(self) -> Generator[httpx.Client]:
        """Give a client that does all that Prefect's UI does."""
        with self.client(headers={"Origin": self.url, "Prefect-Csrf-Client": "test"}) as client:
            asked = {"client": "test"}
            given = until(lambda: client.get("/csrf-token", params=asked), lambda answer: answer.is_success)
            client.headers["Prefect-Csrf-Token"] = given["token"]
            yield client

    def kvit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the machine, as in another terminal."""
        command = [sys.executable, "-m", "deployments", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KVIT_"))}
    return kept | {"PYTHONPATH": str(ROOT), "KVIT_HOME": str(home), "KVIT_UI_LOGIN": f"{USER}:{PASSWORD}"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    """Bring a machine up with a login, as an operator does, with rules and nothing to do."""
    folder = tmp_path_factory.mktemp("access")
    machine = Up(folder / "made" / "home", free_port(), _environment(folder / "made" / "home"))
    rules = machine.kvit("rules", "apply", str(ROOT / "deployments" / "rules" / "cz.yaml"))
    assert rules.returncode == 0, rules.stderr
    (machine.home / "kvit.yaml").write_text("ui_login: $KVIT_UI_LOGIN\n", encoding="utf-8")
    options = ["--prefect-port", str(machine.port), "--port", str(free_port())]
    with (
        (folder / "stderr").open("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "deployments", "up", *options],
            cwd=ROOT,
            env=machine.environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout
        try:
            said = iter(process.stdout.readline, "")
            assert any(line.startswith("Ctrl-C") for line in said), (folder / "stderr").read_text()
            yield machine
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def flows(up: Up, name: str) -> int:
    """Count the flows of a name."""
    with up.operator() as client:
        asked = {"flows": {"name": {"any_": [name]}}}
        return int(until(lambda: client.post("/flows/count", json=asked), lambda answer: answer.is_success))


def runs(up: Up, flow: str) -> int:
    """Count the runs of a flow."""
    with up.operator() as client:
        asked = {"flows": {"name": {"any_": [flow]}}}
        return int(until(lambda: client.post("/flow_runs/count", json=asked), lambda answer: answer.is_success))


@pytest.mark.parametrize("auth", [None, (USER, "guessed"), ("somebody", PASSWORD)])
@pytest.mark.parametrize("path", ["/version", "/admin/settings", "/csrf-token?client=test"])
def test_without_the_login_the_api_answers_nothing(up: Up, auth: tuple[str, str] | None, path: str) -> None:
    assert httpx.get(f"{up.url}/api{path}", auth=auth).status_code == 401


def test_without_the_login_a_probe_sees_whether_the_server_is_healthy(up: Up) -> None:
    answer = httpx.get(f"{up.url}/api/health")
    assert (answer.status_code, answer.text) == (200, "true")


def until(answer: Callable[[], httpx.Response], holds: Callable[[httpx.Response], bool]) -> Any:
    """Ask until an answer is as it should be; return what it says.

    Prefect's server on SQLite answers 503 while its database is busy.
    """
    deadline = time.monotonic() + 120
    while not holds(found := answer()):
        assert time.monotonic() < deadline, found.text
        time.sleep(0.25)
    return found.json()


def test_with_the_login_a_deployment_is_started_and_runs(up: Up) -> None:
    with up.operator() as client:
        served = until(lambda: client.get("/deployments/name/audit/audit"), lambda answer: answer.is_success)
        run = until(
            lambda: client.post(f"/deployments/{served['id']}/create_flow_run", json={}),
            lambda answer: answer.status_code == 201,
        )
        ended = until(
            lambda: client.get(f"/flow_runs/{run['id']}"),
            lambda answer: answer.is_success and answer.json()["state_type"] in ("COMPLETED", "FAILED", "CRASHED"),
        )
    assert ended["state_type"] == "COMPLETED", ended["state"]


@pytest.mark.parametrize("flow", ["reconcile", "pull payments", "audit", "unmatched payments"])
def test_what_has_a_schedule_is_scheduled_by_itself(up: Up, flow: str) -> None:
    asked = {"flows": {"name": {"any_": [flow]}}}
    with up.operator() as client:
        until(
            lambda: client.post("/flow_runs/filter", json=asked),
            lambda answer: answer.is_success and any(run["auto_scheduled"] for run in answer.json()),
        )


def test_a_command_beside_the_machine_finds_it_and_logs_in(up: Up) -> None:
    before = runs(up, "backfill")
    ended = up.kvit("backfill", "--channel", "cz", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["state"], told["backfill"], told["results"]) == ("Done", 1, {})
    assert runs(up, "backfill") == before + 1


def test_a_command_with_another_login_is_told_so(up: Up) -> None:
    other = Up(up.home, up.port, up.environment | {"KVIT_UI_LOGIN": f"{USER}:of-another-installation"})
    ended = other.kvit("backfill", "--channel", "cz")
    assert ended.returncode == 2
    assert "refuses the login; ui_login in kvit.yaml must be" in ended.stderr
    assert "of-another-installation" not in ended.stderr


def test_the_password_stands_in_no_file_and_on_no_command_line(up: Up) -> None:
    assert up.kvit("backfill", "--channel", "cz", "--verbose").returncode == 0
    files = [file for file in up.home.rglob("*") if file.is_file()]
    assert {"run.json", "kvit.sqlite", "prefect.db", "prefect-server.log"} <= {file.name for file in files}
    assert not [file for file in files if PASSWORD.encode() in file.read_bytes()]
    lines: list[bytes] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines.append((process / "cmdline").read_bytes())
        except OSError:
            continue  # it has ended meanwhile
    assert any(b"deployments.guarded_prefect" in line for line in lines)
    assert not [line for line in lines if PASSWORD.encode() in line]


def test_what_is_written_is_for_its_owner_alone(up: Up) -> None:
    ours = [up.home, *(path for path in up.home.rglob("*") if path.name != "kvit.yaml")]
    assert len(ours) > 8
    open_ = [str(path) for path in ours if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not open_


# A page of another site, open in the browser of the operator, who has logged in.


def test_a_page_of_another_site_gets_no_permission(up: Up) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with up.client() as client:
        for answer in (
            client.options("/flows/", headers={"Origin": ELSEWHERE, **asked}),
            client.get("/version", headers={"Origin": ELSEWHERE}),
            client.get("/version", headers={"Origin": "null"}),
        ):
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_ui_itself_gets_permission_under_both_its_names(up: Up, name: str) -> None:
    origin = f"http://{name}:{up.port}"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "prefect-csrf-token"}
    with up.client(headers={"Origin": origin}) as client:
        for answer in (client.options("/flows/", headers=asked), client.get("/version")):
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("origin", [ELSEWHERE, None])
def test_a_post_that_browsers_send_unasked_creates_nothing(up: Up, kind: str | None, origin: str | None) -> None:
    headers = {name: value for name, value in (("Content-Type", kind), ("Origin", origin)) if value}
    with up.client() as client:
        answer = client.post("/flows/", content=b'{"name": "made elsewhere"}', headers=headers)
    assert answer.status_code == 403
    assert flows(up, "made elsewhere") == 0


def test_the_same_post_by_the_ui_creates_what_it_says(up: Up) -> None:
    with up.operator() as client:
        until(lambda: client.post("/flows/", content=b'{"name": "made here"}'), lambda answer: answer.is_success)
    assert flows(up, "made here") == 1


def test_a_page_of_another_site_opens_no_websocket(up: Up) -> None:
    address = f"ws://127.0.0.1:{up.port}/api/events/out"
    with pytest.raises(InvalidStatus, match="403"), connect(address, origin=ELSEWHERE):  # type: ignore[arg-type]
        pass
    with connect(address, origin=up.url, subprotocols=["prefect"]) as socket:  # type: ignore[arg-type,list-item]
        socket.send(json.dumps({"type": "auth", "token": f"{USER}:{PASSWORD}"}))
        assert json.loads(socket.recv(10))["type"] == "auth_success"


def test_a_name_that_was_made_to_point_here_gets_no_answer(up: Up) -> None:
    with up.client() as client:
        for name in ("elsewhere.example", f"elsewhere.example:{up.port}", "127.0.0.1.elsewhere.example", "[broken"):
            assert client.get("/version", headers={"Host": name}).status_code == 403, name


async def test_runs_that_are_made_at_once_are_all_taken_at_the_first_try(up: Up) -> None:
    with up.operator() as operator:
        made = operator.post("/flows/", json={"name": "made at once"})
        run = {"flow_id": made.json()["id"], "state": {"type": "SCHEDULED"}}
        async with httpx.AsyncClient(
            base_url=operator.base_url, auth=(USER, PASSWORD), headers=operator.headers, timeout=60
        ) as client:
            answers = await asyncio.gather(*(client.post("/flow_runs/", json=run) for _ in range(40)))
    assert [answer.status_code for answer in answers] == [201] * 40


# The setting.


@pytest.mark.parametrize(
    "value",
    [
        "operator",
        "a-password-without-a-user",
        "operator:too-short",
        ":a-password-without-a-user",
        "operator:пароль-не-с-теми-знаками",
        "operator:a-password-with\n-a-line",
        17,
    ],
)
def test_a_login_that_can_not_be_used_is_told_and_not_shown(value: object) -> None:
    with pytest.raises(Misconfigured, match="16") as refused:
        login_of({"ui_login": value})
    assert "ui_login" in str(refused.value)
    assert str(value) not in str(refused.value).removeprefix("kvit.yaml, ui_login: it must be user:password")


def test_a_login_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_LOGIN", f"{USER}:{PASSWORD}:with-a-colon")
    assert login_of({"ui_login": "$SOME_LOGIN"}) == f"{USER}:{PASSWORD}:with-a-colon"
    with pytest.raises(Misconfigured, match="variable OTHER_LOGIN is not set"):
        login_of({"ui_login": "$OTHER_LOGIN"})
    assert login_of({}) is None


@pytest.mark.parametrize("asks_login", [True, False])
def test_who_brings_it_up_without_a_login_is_told_of_the_setting(
    opened: Installation, capsys: pytest.CaptureFixture[str], asks_login: bool
) -> None:
    url = "http://127.0.0.1:4200"
    tell_where(Running(opened, Dispatcher(opened), url, "http://127.0.0.1:8080", asks_login), opened.home)
    said = capsys.readouterr().out
    assert f"{url}/runs" in said
    assert ("ui_login" in said) is not asks_login


def test_a_folder_that_was_there_keeps_its_permissions(tmp_path: Path) -> None:
    async def open_and_close(home: Path) -> None:
        await (await open_installation(home)).store.close()

    tmp_path.chmod(0o750)
    for home, mode in ((tmp_path, 0o750), (tmp_path / "new", 0o700)):
        asyncio.run(open_and_close(home))
        assert stat.S_IMODE(home.stat().st_mode) == mode
