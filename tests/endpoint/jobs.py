"""An agent by hand on a real control channel: it takes jobs, and answers only what a test tells it to."""

import ssl
import time
from uuid import UUID, uuid4

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from websockets.sync.client import ClientConnection, connect

from fleetops import clock
from fleetops.wire import JobReceived, open_control_channel, parse_token_answer, payloads
from fleetops.wire.controlchannel import ControlChannel, ControlRole
from tests.endpoint.agent import AgentClient
from tests.support.endpoint import RunningEndpoint


class HandAgent:
    """One node's end of the control channel."""

    def __init__(self, endpoint: RunningEndpoint, instance_id: str) -> None:
        self.endpoint = endpoint
        self.instance_id = instance_id
        self.channel = ControlChannel(ControlRole.AGENT, new_id=uuid4)
        self.socket: ClientConnection | None = None
        self.acknowledged: list[UUID] = []  # replies that the gateway has

    def connect(self, **information: str) -> "HandAgent":
        """Report, and open the control channel; the node is online afterwards."""
        client = AgentClient(self.endpoint).as_node(self.endpoint, self.instance_id)
        assert client.report(self.instance_id, AgentVersion="3.3.987.0", **information)[0] == 200
        path = f"/v1/control-channel/{self.instance_id}"
        status, body = client.post(path)
        assert status == 201, body
        host = self.endpoint.url.removeprefix("https://")
        query = "?role=subscribe&stream=input"
        signing = AWSRequest("GET", f"https://{host}{path}{query}", headers={"Host": host})
        SigV4Auth(client._credentials, "ssmmessages", "eu-west-1").add_auth(signing)
        headers = {name: value for name, value in signing.headers.items() if name.lower() != "host"}
        context = ssl.create_default_context(cafile=self.endpoint.handover["ca_file"])
        self.socket = connect(
            f"wss://{host}{path}{query}", ssl=context, additional_headers=headers, compression=None, legacy=True
        )
        token = parse_token_answer(body.decode())
        self.socket.send(open_control_channel(uuid4(), token, agent_version="3.3.987.0"))
        ssm = self.endpoint.client("ssm")
        until(lambda: ssm.get_connection_status(Target=self.instance_id)["Status"] == "connected")
        return self

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def job(self, seconds: float = 10) -> JobReceived:
        """The next job that comes. Raises AssertionError if none does."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self.channel.events():
                if isinstance(event, JobReceived):
                    return event
            self.listen(max(0.01, deadline - time.monotonic()))
            assert time.monotonic() < deadline, "no job came"

    def is_quiet(self, seconds: float) -> bool:
        """Whether no job comes for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.listen(left)
            if any(isinstance(event, JobReceived) for event in self.channel.events()):
                return False
        return True

    def listen(self, seconds: float) -> None:
        assert self.socket is not None
        try:
            frame = self.socket.recv(timeout=seconds)
        except TimeoutError:
            return
        assert isinstance(frame, bytes)
        self.channel.receive(frame, now=clock.steady())

    def take(self, job: JobReceived, code: str = "200", message: str = "Successful") -> None:
        self.channel.acknowledge_job(job, now=clock.steady(), status_code=code, error_message=message)
        self._send()

    def reply(self, job_id: str, status: str, topic: str = "aws.ssm.sendCommand", **steps: payloads.StepResult) -> UUID:
        """Tell how a command fares; the message's id."""
        now = payloads.iso_time(int(clock.now().timestamp() * 1000))
        results = {name.replace("__", ":"): step for name, step in steps.items()} or None
        content = payloads.ReplyContent(status, now, status_counts=None, runtime_status=results)
        reply = payloads.AgentJobReply(job_id, content.serialize(), topic)
        message_id = self.channel.reply_job(reply, now=clock.steady())
        self._send()
        return message_id

    def run(self, job: JobReceived, status: str = "Success", code: int = 0, out: str = "", err: str = "") -> None:
        """Take a job of AWS-RunShellScript and answer it as a real agent does."""
        self.take(job)
        self.reply(job.job.job_id, "InProgress")
        step = shell_step(status, code, out, err)
        self.reply(job.job.job_id, "InProgress", aws__runShellScript=step)
        self.reply(job.job.job_id, status, aws__runShellScript=step)

    def _send(self) -> None:
        assert self.socket is not None
        for frame in self.channel.data_to_send():
            self.socket.send(frame)


def shell_step(status: str, code: int, out: str = "", err: str = "") -> payloads.StepResult:
    now = payloads.iso_time(int(clock.now().timestamp() * 1000))
    return payloads.StepResult(
        status, code, "aws:runShellScript", out + err, now, now, standard_output=out, standard_error=err
    )


def until(condition, seconds: float = 15):
    """What `condition` returns once it is true. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
