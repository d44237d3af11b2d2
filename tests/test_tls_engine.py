"""An engine by TCP that takes only clients with a certificate: a dockerd of our own, on a loopback of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from ledgers import COMMAND
from private_engine import PrivateEngine, missing, private_engine
from running import ARMED, LIMIT, Said, hear, kept, kinds, until, verdict

from driver.protocol import STDOUT
from ledger.read import Reader

pytestmark = pytest.mark.engine

IMAGE = "busybox"
PORT = 2376
MIB = 1 << 20


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=LIMIT)


def authority(folder: Path, name: str) -> None:
    """One that signs certificates."""
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl(folder, *new, "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out", f"{name}.pem")


def certificate(folder: Path, name: str, extensions: str, by: str = "ca") -> None:
    """A key of `name` and what the authority says of it."""
    (folder / f"{name}.ext").write_text(extensions, encoding="utf-8")
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}"]
    openssl(folder, *new, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr")
    sign = ["x509", "-req", "-days", "2", "-CA", f"{by}.pem", "-CAkey", f"{by}-key.pem", "-CAcreateserial"]
    openssl(folder, *sign, "-in", f"{name}.csr", "-out", f"{name}-cert.pem", "-extfile", f"{name}.ext")


def wallet(folder: Path, name: str) -> Path:
    """What DOCKER_CERT_PATH is to be for the client of that name."""
    place = folder / f"wallet-{name}"
    place.mkdir()
    for source, target in ((f"{name}-key.pem", "key.pem"), (f"{name}-cert.pem", "cert.pem"), ("ca.pem", "ca.pem")):
        shutil.copy(folder / source, place / target)
    return place


class Far:
    """The engine, and the two clients: one that it knows, and one with papers of its own making."""

    def __init__(self, engine: PrivateEngine, friend: Path, stranger: Path) -> None:
        self.engine = engine
        self.friend = friend
        self.stranger = stranger

    def environment(self, wallet: Path) -> dict[str, str]:
        given = {"DOCKER_HOST": f"tcp://127.0.0.1:{PORT}", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(wallet)}
        return {**os.environ, **given}

    def words(self, *words: str) -> list[str]:
        """`calls WORD...` where the engine's loopback is."""
        return ["nsenter", f"--net=/proc/{self.engine.room}/ns/net", *COMMAND, *words]

    def calls(self, *words: str, wallet: Path | None = None, stdin: bytes = b"") -> Said:
        """Carry it out to its end; by the friend if nobody else is named."""
        environment = self.environment(wallet or self.friend)
        done = subprocess.run(
            self.words(*words), input=stdin, capture_output=True, env=environment, timeout=LIMIT, check=False
        )
        return Said(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def under(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """`calls WORD...` under way."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            self.words(*words), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=self.environment(self.friend)
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    why = missing() or (None if shutil.which("openssl") else "there is no openssl")
    if why and not os.environ.get("CALLS_REQUIRE_ENGINE"):
        pytest.skip(why)
    assert not why, why
    folder = tmp_path_factory.mktemp("certificates")
    authority(folder, "ca")
    authority(folder, "impostor")
    certificate(folder, "server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    certificate(folder, "friend", "extendedKeyUsage=clientAuth\n")
    certificate(folder, "stranger", "extendedKeyUsage=clientAuth\n", by="impostor")
    client = docker.from_env()
    image = b"".join(client.api.get_image(IMAGE))
    client.close()
    tls = [
        "--host", f"tcp://127.0.0.1:{PORT}", "--tlsverify", "--tlscacert", f"{folder}/ca.pem",
        "--tlscert", f"{folder}/server-cert.pem", "--tlskey", f"{folder}/server-key.pem",
    ]  # fmt: skip
    with private_engine(image, live_restore=False, more=tls) as engine:
        yield Far(engine, wallet(folder, "friend"), wallet(folder, "stranger"))


@pytest.fixture(autouse=True)
def nothing_left(far: Far) -> Iterator[None]:
    yield
    with far.engine.client() as client:
        assert client.containers(all=True) == []


def test_success(far: Far) -> None:
    said = far.calls("run", "--network", "none", IMAGE, "echo", "hello")
    assert said == (0, b"hello\n", b""), said.err
    assert (verdict(), kept(STDOUT)) == (("success", "exit", 0), b"hello\n")


def test_authorities_for_the_web_say_nothing_about_an_engine(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """A REQUESTS_CA_BUNDLE in the environment does not take the place of DOCKER_CERT_PATH."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(far.stranger / "cert.pem"))
    said = far.calls("run", "--network", "none", IMAGE, "true")
    assert said == (0, b"", b""), said.err


def test_failure(far: Far) -> None:
    said = far.calls("run", "--network", "none", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (said.status, said.out, said.err) == (7, b"out\n", b"err\n")
    assert verdict() == ("error", "exit", 7)


def test_much_output_arrives_whole(far: Far) -> None:
    said = far.calls("run", "--network", "none", IMAGE, "sh", "-c", "yes 0123456789abcde | head -c 16777216")
    expected = b"0123456789abcde\n" * MIB
    assert (said.status, hashlib.sha256(said.out).digest()) == (0, hashlib.sha256(expected).digest())
    assert len(kept(STDOUT)) == 16 * MIB


def test_input_goes_the_same_way(far: Far) -> None:
    given = bytes(range(256)) * 4096
    said = far.calls("run", "-i", "--network", "none", IMAGE, "cat", stdin=given)
    assert (said.status, said.out == given) == (0, True)


def test_cancel(far: Far) -> None:
    with far.under("run", "--network", "none", IMAGE, "sh", "-c", ARMED) as process:
        assert process.stdout
        hear(process.stdout.fileno(), b"up\n")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert verdict() == ("cancelled", "user", 0)
    assert "cleaned" in kinds()


def test_samples_come_from_the_stream(far: Far, ledger: Path) -> None:
    def sampled() -> int:
        with Reader(ledger) as reader:
            return int(next(iter(reader.query("SELECT count(mem_usage_bytes) FROM sample")[1]))[0])

    with far.under("run", "--network", "none", IMAGE, "sh", "-c", "echo up; exec sleep 600") as process:
        assert process.stdout
        hear(process.stdout.fileno(), b"up\n")
        until(sampled, "a sample")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)


def test_papers_of_ones_own_making_are_refused(far: Far) -> None:
    said = far.calls("run", IMAGE, "true", wallet=far.stranger)
    assert (said.status, said.out) == (125, b"")
    assert verdict() == ("error", "engine-unavailable", None)
    assert b"no Docker Engine at tcp://127.0.0.1:2376 (" in said.err
    assert said.err.count(b"\n") == 1


def test_an_engine_that_cannot_prove_itself_is_not_believed(far: Far, tmp_path: Path) -> None:
    shutil.copytree(far.friend, tmp_path / "wallet")
    authority(tmp_path, "another")
    shutil.move(tmp_path / "another.pem", tmp_path / "wallet" / "ca.pem")
    said = far.calls("run", IMAGE, "true", wallet=tmp_path / "wallet")
    assert (said.status, verdict()) == (125, ("error", "engine-unavailable", None))
    assert b"certificate verify failed" in said.err


def test_doctor(far: Far) -> None:
    said = far.calls("doctor", "--csv")
    assert said.status == 0
    assert b"tcp://127.0.0.1:2376" in said.out
    assert b"samples,off" in said.out
