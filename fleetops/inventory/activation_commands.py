"""The commands that make a machine a node, for each operating system: made from an activation, and nothing else.

Sources: the Systems Manager user guide, "Install SSM Agent on hybrid nodes"; for an endpoint of one's own, what the
agent asks of it (three endpoints as complete URLs, the configuration before -register, the CA where Go looks for it).
Those for Debian were run with the real agent; the others say that they were not.
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fleetops.aws.regions import partition_of

from .account_rules import LOOPBACK

# In the place of a code that is not shown (any more).
NO_CODE = "ACTIVATION-CODE"
CA_FILE = "fleetops-endpoint.pem"
# The packages for everybody, wherever an endpoint calls its region what it likes. [user guide, "Manually installing"]
_ANY_REGION = "https://s3.amazonaws.com/ec2-downloads-windows/SSMAgent/latest"
_ETC = "/etc/amazon/ssm"
_MAC = "/opt/aws/ssm"
_MAC_DAEMON = "/Library/LaunchDaemons/com.amazon.aws.ssm.plist"

# What the agent's log says, and what that means. [amazon-ssm-agent, as run against an endpoint of our own]
HINTS = (
    (
        "Registration failed due to … InvalidActivation: …",
        "The code or the id is wrong, the activation has ended, or it is used up. The words behind it are the "
        "endpoint's own.",
    ),
    (
        "Entering SSM Agent hibernate - … x509: certificate signed by unknown authority",
        "The machine does not trust the endpoint's CA. Put it in place, then restart the agent: by itself it tries "
        "again after five minutes only.",
    ),
    (
        "Entering SSM Agent hibernate - AccessDeniedException or InvalidSignatureException",
        "Its first report was refused: the role lacks AmazonSSMManagedInstanceCore, the region is another, or the "
        "machine's clock is more than five minutes wrong.",
    ),
    (
        "failed to get host name with error: %!s(<nil>)",
        "Mgs.Endpoint in amazon-ssm-agent.json has no https:// before it. With an IP address and no https:// the agent "
        "says nothing and calls AWS.",
    ),
    (
        "unexpected response from the service <…>",
        "Something between the machine and the endpoint answers in its place: a proxy, or another service there.",
    ),
    (
        "Reach the retry limit 5 for receive messages … i/o timeout",
        "The connection is made, and what is sent on it is lost: look for a proxy or a firewall that cuts websockets.",
    ),
    (
        "credentials refresher panic",
        "The answer with its credentials lacked a part. The endpoint is too old for this agent.",
    ),
    (
        "[EC2Identity] Failed to get instance info from IMDS",
        "Normal outside EC2; this is not what is wrong.",
    ),
)
LOGS = (
    ("Linux, macOS", "/var/log/amazon/ssm/amazon-ssm-agent.log"),
    ("Windows", r"%PROGRAMDATA%\Amazon\SSM\Logs\amazon-ssm-agent.log"),
)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a machine registers. `endpoint_url` is empty for AWS itself."""

    region: str
    endpoint_url: str = ""
    ca_pem: str = ""

    @property
    def is_aws(self) -> bool:
        return not self.endpoint_url

    @property
    def is_local_only(self) -> bool:
        """Whether no other machine reaches the address."""
        return urlsplit(self.endpoint_url).hostname in LOOPBACK

    @property
    def packages(self) -> str:
        """Where the agent's packages lie."""
        if not self.is_aws:
            return _ANY_REGION
        domain = "amazonaws.com.cn" if partition_of(self.region) == "aws-cn" else "amazonaws.com"
        return f"https://s3.{self.region}.{domain}/amazon-ssm-{self.region}/latest"

    @property
    def ca_text(self) -> str:
        """The CA's certificates and nothing that stands around them, since it goes into commands."""
        return "".join(each.public_bytes(Encoding.PEM).decode() for each in self._certificates)

    @property
    def ca_digest(self) -> str:
        """SHA-256 of `ca_text`, as sha256sum prints it."""
        return hashlib.sha256(self.ca_text.encode()).hexdigest()

    @property
    def ca_fingerprints(self) -> list[str]:
        """SHA-256 of each certificate in it, as `openssl x509 -fingerprint -sha256` prints it."""
        return [each.fingerprint(hashes.SHA256()).hex(":").upper() for each in self._certificates]

    @property
    def _certificates(self) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(self.ca_pem.encode())
        except ValueError:  # none, or none that can be read
            return []

    @property
    def config(self) -> str:
        """amazon-ssm-agent.json. What is left out has the agent's default."""
        where = {"Endpoint": self.endpoint_url}
        told = {
            "Mds": where,
            "Ssm": where,
            "Mgs": where | {"Region": self.region},
            "Kms": where,
            "S3": where,
            "Agent": {"Region": self.region, "SelfUpdate": False},
        }
        return json.dumps(told, indent=2)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, and how."""

    text: str
    command: str


@dataclass(frozen=True, slots=True)
class Guide:
    """The steps for one kind of machine."""

    key: str
    title: str
    steps: tuple[Step, ...]
    note: str = ""
    is_run: bool = True  # False: nobody has run it on a real machine yet

    @property
    def whole(self) -> str:
        """All commands in their order, to be copied at once."""
        return "\n".join(step.command for step in self.steps) + "\n"


@dataclass(frozen=True, slots=True)
class _Linux:
    """How a family of Linux installs a package and trusts a CA."""

    key: str
    title: str
    install: str
    ca_path: str
    ca_command: str
    note: str = ""
    is_run: bool = False


_FAMILIES = (
    _Linux(
        "debian",
        "Debian, Ubuntu",
        "curl -fsSLo /tmp/amazon-ssm-agent.deb {packages}/debian_$(dpkg --print-architecture)/amazon-ssm-agent.deb\n"
        "sudo dpkg -i /tmp/amazon-ssm-agent.deb",
        "/usr/local/share/ca-certificates/fleetops-endpoint.crt",
        "sudo update-ca-certificates",
        "Ubuntu's cloud images bring the agent as a snap, which has its files elsewhere: take it off first, with "
        "sudo snap remove amazon-ssm-agent.",
        is_run=True,
    ),
    _Linux(
        "rhel",
        "RHEL, Amazon Linux, Rocky, Alma",
        "sudo dnf install -y {packages}/linux_$(uname -m | sed 's/x86_64/amd64/;s/aarch64/arm64/')"
        "/amazon-ssm-agent.rpm",
        "/etc/pki/ca-trust/source/anchors/fleetops-endpoint.pem",
        "sudo update-ca-trust",
        "Without dnf, as on Amazon Linux 2: yum takes the same words.",
    ),
    _Linux(
        "suse",
        "SUSE",
        "curl -fsSLo /tmp/amazon-ssm-agent.rpm {packages}/linux_$(uname -m | "
        "sed 's/x86_64/amd64/;s/aarch64/arm64/')/amazon-ssm-agent.rpm\n"
        "sudo rpm --install /tmp/amazon-ssm-agent.rpm",
        "/etc/pki/trust/anchors/fleetops-endpoint.pem",
        "sudo update-ca-certificates",
    ),
)


def guides(site: Site, activation_id: str, code: str = "") -> list[Guide]:
    """What to run on each kind of machine; with NO_CODE where the code is not to be had."""
    code = code or NO_CODE
    made = [_linux(family, site, activation_id, code) for family in _FAMILIES]
    made += [_mac(site, activation_id, code), _windows(site, activation_id, code)]
    if not site.is_aws:
        made.append(_own_node(site, activation_id, code))
    return made


def without_the_system_store(site: Site) -> str:
    """How a Linux agent trusts the CA alone, where the system's store is not to be touched."""
    drop_in = f"[Service]\nEnvironment=SSL_CERT_FILE={_ETC}/{CA_FILE}"
    return "\n".join(
        [
            *_write(f"{_ETC}/{CA_FILE}", site.ca_text, "PEM"),
            *_write("/etc/systemd/system/amazon-ssm-agent.service.d/fleetops.conf", drop_in, "UNIT"),
            "sudo systemctl daemon-reload",
            f"export SSL_CERT_FILE={_ETC}/{CA_FILE}",
        ]
    )


def _linux(family: _Linux, site: Site, activation_id: str, code: str) -> Guide:
    stop = "sudo systemctl stop amazon-ssm-agent"
    install = Step(
        "Install the agent, and stop it: it starts by itself, and does not know yet where to go.",
        f"{family.install.format(packages=site.packages)}\n{stop}",
    )
    register = Step(
        "Register. It prints the node’s id, which begins with mi-.",
        f"sudo -E amazon-ssm-agent -register {_words(activation_id, code, site.region)}",
    )
    start = Step("Start the agent.", "sudo systemctl enable --now amazon-ssm-agent")
    steps = [install, *_linux_endpoint(family, site), register, start]
    return Guide(family.key, family.title, tuple(steps), family.note, family.is_run)


def _linux_endpoint(family: _Linux, site: Site) -> Iterator[Step]:
    if site.ca_text:
        yield Step(
            "Trust the endpoint’s CA.",
            "\n".join([*_write(family.ca_path, site.ca_text, "PEM"), family.ca_command]),
        )
    if not site.is_aws:
        yield Step(
            "Say where the endpoint is. This goes before the registration, which reads it.",
            "\n".join(_write(f"{_ETC}/amazon-ssm-agent.json", site.config, "JSON")),
        )


def _mac(site: Site, activation_id: str, code: str) -> Guide:
    steps = [
        Step(
            "Install the agent, and stop it.",
            f"curl -fsSLo /tmp/amazon-ssm-agent.pkg {site.packages}/darwin_$(uname -m | sed 's/x86_64/amd64/')"
            "/amazon-ssm-agent.pkg\n"
            "sudo installer -pkg /tmp/amazon-ssm-agent.pkg -target /\n"
            f"sudo launchctl unload -w {_MAC_DAEMON}",
        )
    ]
    if site.ca_text:
        ca = f"{_MAC}/{CA_FILE}"
        keychain = f"sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain {ca}"
        steps.append(Step("Trust the endpoint’s CA.", "\n".join([*_write(ca, site.ca_text, "PEM"), keychain])))
    if not site.is_aws:
        config = "\n".join(_write(f"{_MAC}/amazon-ssm-agent.json", site.config, "JSON"))
        steps.append(Step("Say where the endpoint is. This goes before the registration.", config))
    steps += [
        Step("Register.", f"sudo {_MAC}/bin/amazon-ssm-agent -register {_words(activation_id, code, site.region)}"),
        Step("Start the agent.", f"sudo launchctl load -w {_MAC_DAEMON}"),
    ]
    note = "AWS itself supports the agent on macOS for EC2 Mac instances only." if site.is_aws else ""
    return Guide("macos", "macOS", tuple(steps), note, is_run=False)


def _windows(site: Site, activation_id: str, code: str) -> Guide:
    setup = r"$env:TEMP\AmazonSSMAgentSetup.exe"
    steps = [
        Step(
            "In a PowerShell as administrator: install the agent, and stop it.",
            "[Net.ServicePointManager]::SecurityProtocol = 'Tls12'\n"
            f"Invoke-WebRequest -UseBasicParsing {site.packages}/windows_amd64/AmazonSSMAgentSetup.exe "
            f'-OutFile "{setup}"\n'
            f'Start-Process "{setup}" -ArgumentList "/S" -Wait\n'
            "Stop-Service AmazonSSMAgent",
        )
    ]
    if site.ca_text:
        ca = r"$env:TEMP\fleetops-endpoint.cer"
        steps.append(
            Step(
                "Trust the endpoint’s CA.",
                f"[IO.File]::WriteAllText(\"{ca}\", @'\n{site.ca_text.strip()}\n'@)\n"
                f'Import-Certificate -FilePath "{ca}" -CertStoreLocation Cert:\\LocalMachine\\Root',
            )
        )
    if not site.is_aws:
        steps.append(
            Step(
                "Say where the endpoint is. This goes before the registration.",
                '[IO.File]::WriteAllText("$env:ProgramFiles\\Amazon\\SSM\\amazon-ssm-agent.json", '
                f"@'\n{site.config}\n'@)",
            )
        )
    steps += [
        Step(
            "Register.",
            '& "$env:ProgramFiles\\Amazon\\SSM\\amazon-ssm-agent.exe" -register '
            f"{_words(activation_id, code, site.region, _powershell)}",
        ),
        Step("Start the agent.", "Start-Service AmazonSSMAgent"),
    ]
    return Guide("windows", "Windows", tuple(steps), is_run=False)


def _own_node(site: Site, activation_id: str, code: str) -> Guide:
    ca = [*_write_plain(CA_FILE, site.ca_text, "PEM")] if site.ca_text else []
    register = [
        "fleetops node register",
        f"--endpoint {shlex.quote(site.endpoint_url)}",
        *([f"--ca {CA_FILE}"] if site.ca_text else []),
        f"--region {shlex.quote(site.region)}",
        f"--id {shlex.quote(activation_id)}",
        f"--code {shlex.quote(code)}",
    ]
    steps = []
    if ca:
        steps.append(Step("Write the endpoint’s CA into a file.", "\n".join(ca)))
    steps += [
        Step("Register.", " \\\n    ".join(register)),
        Step("Run it; it goes on until it is stopped.", "fleetops node run"),
    ]
    note = (
        "For a Linux machine that has this release of FleetOps, and no agent of AWS’s. Shells and commands run as "
        "whoever runs it, in no sandbox."
    )
    return Guide("node", "FleetOps’s own node", tuple(steps), note)


def _words(activation_id: str, code: str, region: str, quote: Callable[[str], str] = shlex.quote) -> str:
    """Quoted: whoever answers in AWS's place might else have us print a command of theirs."""
    return f"-code {quote(code)} -id {quote(activation_id)} -region {quote(region)} -y"


def _powershell(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def _write(path: str, text: str, end: str) -> list[str]:
    """Lines that write a file as root, with its folder."""
    folder = path.rpartition("/")[0]
    return [f"sudo mkdir -p {folder}", f"sudo tee {path} > /dev/null <<'{end}'", *text.strip().splitlines(), end]


def _write_plain(path: str, text: str, end: str) -> list[str]:
    return [f"cat > {path} <<'{end}'", *text.strip().splitlines(), end]
