"""`superlink` and `supernode`: the commands that they start, the hospitals that they accept, and their errors."""

import argparse
import shlex
import shutil
import socket
import stat
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.common.config import parse_config_args

from federated_health.cli.deployment import flower_commands, superlink, supernode
from federated_health.cli.deployment.flower_commands import environment, executable, format_config, shell_line
from federated_health.cli.deployment.superlink import (
    accepted_hospitals,
    check_flags,
    check_free,
    link_command,
    public_key_line,
    write_connection,
)
from federated_health.cli.deployment.supernode import node_command
from federated_health.data.manifest import OwnHospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import AddressError, CertificateError, RunError, UserError
from federated_health.processes import free_port
from federated_health.security.authority import Authority, make_demo_identities
from federated_health.security.certificates import read_certificates, read_key
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role

SUBCOMMANDS = {"superlink": superlink, "supernode": supernode}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "tls"
    make_demo_identities(folder, ["cleveland", "hungary"])
    return folder


def flags_of(subcommand: str, *words: object) -> argparse.Namespace:
    """Parsed flags of `superlink` or `supernode`."""
    flags: argparse.Namespace = SUBCOMMANDS[subcommand].make_parser().parse_args([str(word) for word in words])
    return flags


def node_command_of(folder: Path, data: Path, *words: object) -> list[str]:
    """Flower's command for the hospital with this TLS folder."""
    flags = flags_of("supernode", "--tls", folder, "--data", data, *words)
    own = OwnHospital(data=data, name="cleveland", task=HEART_DISEASE)
    return node_command(flags, own, load_identity(folder, Role.HOSPITAL))


def superlink_flags(tls: Path, *words: object) -> argparse.Namespace:
    return flags_of("superlink", "--tls", tls / "server", "--hospitals", tls / "authority" / "issued", *words)


def test_a_node_gets_its_csv_by_an_absolute_path_and_its_name_from_its_certificate(tls: Path, in_folder: Path) -> None:
    (in_folder / "own data.csv").touch()

    words = "--dp-budget", 2.5, "--split-seed", 7, "--secure-aggregation-only", "--same-participants"
    command = node_command_of(tls / "hospitals" / "cleveland", Path("own data.csv"), *words)

    config = parse_config_args([command[command.index("--node-config") + 1]])
    path = str(in_folder / "own data.csv")
    own = {"data": path, "name": "cleveland", "tls": str(tls / "hospitals" / "cleveland"), "split-seed": 7}
    assert config == {**own, "dp-budget": 2.5, "secure-aggregation-only": True, "same-participants": True}


def test_a_node_authenticates_with_the_key_of_its_certificate(tls: Path, tmp_path: Path) -> None:
    command = node_command_of(tls / "hospitals" / "cleveland", tmp_path / "any.csv")

    path = Path(command[command.index("--auth-supernode-private-key") + 1])
    key = load_ssh_private_key(path.read_bytes(), None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.public_key() == read_key(tls / "hospitals" / "cleveland" / "key.pem").public_key()
    assert "--insecure" not in command
    trusted = read_certificates(Path(command[command.index("--root-certificates") + 1]))
    assert trusted == [load_identity(tls / "server", Role.SERVER).authority]


def test_local_ports_listen_on_loopback_only(tls: Path, tmp_path: Path) -> None:
    flags = superlink_flags(tls, "--address", f"0.0.0.0:{free_port()}")

    command = link_command(flags, load_identity(tls / "server", Role.SERVER))
    node = node_command_of(tls / "hospitals" / "cleveland", tmp_path / "any.csv")

    assert command[command.index("--host") + 1] == node[node.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--control-api-address") + 1].startswith("127.0.0.1:")
    assert command[command.index("--fleet-api-address") + 1] == flags.address
    assert "--enable-supernode-auth" in command


def test_a_printed_command_can_be_pasted_into_a_shell() -> None:
    assert shlex.split(shell_line(["/bin/flower-supernode", "--node-config", "data='/a b.csv'"])) == [
        "flower-supernode",
        "--node-config",
        "data='/a b.csv'",
    ]


def test_the_public_key_is_written_in_openssh_form(tls: Path) -> None:
    certificate = load_identity(tls / "hospitals" / "hungary", Role.HOSPITAL).certificate

    line = public_key_line(certificate)

    assert line.startswith(b"ecdsa-sha2-nistp256 ")
    assert load_ssh_public_key(line) == certificate.public_key()


def test_hospitals_of_the_authority_are_accepted(tls: Path) -> None:
    identity = load_identity(tls / "server", Role.SERVER)

    hospitals = accepted_hospitals(identity, [tls / "authority" / "issued"])

    assert list(hospitals) == ["cleveland", "hungary"]
    assert hospitals["hungary"] == load_identity(tls / "hospitals" / "hungary", Role.HOSPITAL).certificate


def test_a_revoked_hospital_and_one_of_another_authority_are_not_accepted(tmp_path: Path) -> None:
    make_demo_identities(tmp_path / "ours", ["cleveland", "hungary"])
    make_demo_identities(tmp_path / "theirs", ["cleveland"])
    Authority(tmp_path / "ours" / "authority").revoke("hungary")
    revoked = tmp_path / "ours" / "authority" / "revoked.pem"
    (tmp_path / "ours" / "server" / "revoked.pem").write_bytes(revoked.read_bytes())
    identity = load_identity(tmp_path / "ours" / "server", Role.SERVER)

    assert list(accepted_hospitals(identity, [tmp_path / "ours" / "authority" / "issued"])) == ["cleveland"]
    with pytest.raises(CertificateError, match="was not signed by the authority"):
        accepted_hospitals(identity, [tmp_path / "theirs" / "hospitals" / "cleveland" / "certificate.pem"])
    with pytest.raises(CertificateError, match="--hospitals: expected a hospital's certificate"):
        accepted_hospitals(identity, [tmp_path / "ours" / "server" / "certificate.pem"])


def test_a_certificate_without_a_role_is_named(tls: Path) -> None:
    identity = load_identity(tls / "server", Role.SERVER)
    authority = tls / "authority" / "authority.pem"

    with pytest.raises(CertificateError, match=r"authority\.pem: .*hospital"):
        accepted_hospitals(identity, [tls / "authority" / "issued", authority])


def test_a_connection_is_added_to_flower_s_configuration(
    tls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text('[superlink]\ndefault = "mine"\n[superlink.mine]\naddress = "1.2.3.4:5"\n')

    path = write_connection("hospitals", "127.0.0.1:8000", tls / "server" / "authority.pem")

    known = tomllib.loads(path.read_text())["superlink"]
    assert known["mine"] == {"address": "1.2.3.4:5"}
    assert known["default"] == "mine"
    assert known["hospitals"]["address"] == "127.0.0.1:8000"
    assert known["hospitals"]["root-certificates"] == str(tls / "server" / "authority.pem")
    assert known["hospitals"].get("insecure", False) is False
    capsys.readouterr()


def test_a_damaged_configuration_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text("[superlink")

    with pytest.raises(RunError, match="is not TOML"):
        write_connection("hospitals", "127.0.0.1:8000", tmp_path / "authority.pem")
    assert (tmp_path / "config.toml").read_text() == "[superlink"


def test_telemetry_is_off_unless_the_environment_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    assert environment()["FLWR_TELEMETRY_ENABLED"] == "0"
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    assert environment()["FLWR_TELEMETRY_ENABLED"] == "1"


@pytest.mark.parametrize("path", ["it's.csv", 'a "b".csv', "a\nb.csv"])
def test_a_path_with_a_quote_is_rejected(path: str) -> None:
    with pytest.raises(RunError, match="data: expected no quote"):
        format_config({"data": path})


def test_a_rejected_path_leaves_no_key_behind(tls: Path, tmp_path: Path) -> None:
    folder = tmp_path / "it's"
    shutil.copytree(tls / "hospitals" / "hungary", folder)
    (folder / "supernode.key").unlink(missing_ok=True)

    with pytest.raises(RunError, match="expected no quote"):
        node_command_of(folder, tmp_path / "any.csv")

    assert not (folder / "supernode.key").exists()


def test_one_port_for_both_addresses_is_rejected(tls: Path) -> None:
    port = free_port()
    with pytest.raises(AddressError, match=f"expected another port than --control-port, got {port}"):
        check_flags(superlink_flags(tls, "--address", f"127.0.0.1:{port}", "--control-port", port))


def test_a_port_in_use_is_rejected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AddressError, match=f"127.0.0.1:{port}: .*cannot open this port"):
            check_free("127.0.0.1", port)


@pytest.mark.parametrize("name", ["local", "default", "supergrid", "a.b", ""])
def test_an_invalid_or_reserved_name_is_rejected(tls: Path, name: str) -> None:
    with pytest.raises(RunError, match=f"--name: expected letters.*got {name!r}"):
        check_flags(superlink_flags(tls, "--name", name))


def error_of(subcommand: str, *words: object) -> str:
    """Message of a subcommand that fails."""
    with pytest.raises(UserError) as caught:
        SUBCOMMANDS[subcommand].run(flags_of(subcommand, *words))
    return str(caught.value)


@pytest.mark.parametrize("number", ["0", "65536", "70000", "99999", "http"])
def test_a_port_out_of_range_is_rejected(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The system would take 70000 for 4464."""
    with pytest.raises(SystemExit):
        flags_of("superlink", "--tls", "tls", "--hospitals", "issued", "--control-port", number)
    assert f"--control-port: expected a whole number from 1 to 65535, got '{number}'" in capsys.readouterr().err


def test_an_error_before_the_start_is_one_line(tls: Path, hospitals_folder: Path, tmp_path: Path) -> None:
    folder, data = tls / "hospitals" / "cleveland", hospitals_folder / "client_1.csv"
    malformed = tmp_path / "malformed.csv"
    malformed.write_text("age,sex\n1,2\n")
    policy = tmp_path / "policy.toml"
    policy.write_text("")
    port = free_port()
    for words, expected in (
        (("supernode", "--tls", folder, "--policy", policy, "--data", tmp_path / "none.csv"), "none.csv: "),
        (("supernode", "--tls", folder, "--policy", policy, "--data", malformed), "malformed.csv"),
        (("supernode", "--tls", tls / "server", "--policy", policy, "--data", data), "expected a hospital's"),
        (
            ("supernode", "--tls", folder, "--policy", policy, "--data", data, "--superlink", "nowhere"),
            "expected HOST:PORT",
        ),
        (("superlink", "--tls", folder, "--hospitals", folder / "certificate.pem"), "expected a server's"),
        (("superlink", "--tls", tls / "server", "--hospitals", tmp_path / "none.pem"), "none.pem: cannot be read"),
        (
            (
                *("superlink", "--tls", tls / "server", "--hospitals", tls / "authority" / "issued"),
                *("--address", f"127.0.0.1:{port}", "--control-port", port, "--name", "local"),
            ),
            "--name: ",
        ),
    ):
        message = error_of(*words)
        assert expected in message
        assert "\n" not in message


def test_flower_s_commands_are_found_beside_python_or_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, on_path = (tmp_path / folder / "flower-superlink" for folder in ("beside", "on-path"))
    for program in (beside, on_path):
        program.parent.mkdir()
        program.touch(0o755)
    monkeypatch.setattr(flower_commands, "SCRIPTS", beside.parent)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(on_path.parent))

    assert executable("flower-superlink") == str(beside)
    beside.unlink()
    assert executable("flower-superlink") == str(on_path)
    on_path.unlink()
    with pytest.raises(RunError, match="flower-superlink: is not installed"):
        executable("flower-superlink")
