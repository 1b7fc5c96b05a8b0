"""Terminal sessions, their owners, and the chunks of their recordings."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.urls import reverse

from fleetops.approvals.models import ApprovalRequest
from fleetops.clock import now, uuid7
from fleetops.identity.models import AccessKey, ApiToken
from fleetops.inventory.models import Instance

from .delivery.models import DeliverySettings, LogDelivery, RecordingCopy  # noqa: F401  (Django looks for them here)
from .document_models import RestrictedShell, SessionDocument, new_nonce  # noqa: F401  (likewise)
from .exit_codes import plain
from .states import CommandSource, Door, GrantState, SessionKind, SessionState
from .transfers import paths
from .transfers.models import Transfer  # noqa: F401  (likewise)


class TerminalSessionQuerySet(models.QuerySet):
    def visible_to(self, user) -> "TerminalSessionQuerySet":
        """One's own sessions; everybody's for who may review them."""
        if user.has_perm("sessions_app.review_terminalsession"):
            return self
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def live(self) -> "TerminalSessionQuerySet":
        return self.filter(state__in=[SessionState.OPENING, SessionState.OPEN])


class TerminalSession(models.Model):
    """One Session Manager session. The row exists before StartSession is called. It never holds a token."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    user_name = models.CharField(max_length=150)
    # Not `instance`: its column would be called instance_id, which is AWS's id here.
    instance_row = models.ForeignKey(Instance, on_delete=models.SET_NULL, null=True, related_name="terminal_sessions")
    # Copied, so that the session outlives its instance's row.
    instance_id = models.CharField(max_length=64)
    instance_name = models.CharField(max_length=255)
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    reason = models.CharField(max_length=256, blank=True)
    kind = models.CharField(max_length=8, choices=SessionKind, default=SessionKind.SHELL)
    door = models.CharField(max_length=8, choices=Door, default=Door.BROWSER)
    document = models.CharField(max_length=128, blank=True, help_text="session document that was asked for, by name")
    parameters = models.JSONField(default=dict, blank=True, help_text="of the document, as StartSession takes them")
    run_as = models.CharField(max_length=64, blank=True, help_text="OS user that was asked for; empty: the account's")
    mark_nonce = models.CharField(
        max_length=32, default=new_nonce, editable=False, help_text="secret of its shell's marks; never shown"
    )
    no_marks = models.CharField(
        max_length=256, blank=True, help_text="in words, why its shell tells no commands: they are read from the screen"
    )
    state = models.CharField(max_length=8, choices=SessionState, default=SessionState.OPENING)
    ssm_session_id = models.CharField(max_length=96, blank=True, help_text="AWS's SessionId; empty until it answered")
    source_address = models.CharField(max_length=64, blank=True)
    mfa_at = models.DateTimeField(null=True, help_text="when the log-in that opened it gave a second factor")
    grant = models.ForeignKey("Grant", on_delete=models.PROTECT, null=True, blank=True, related_name="sessions")
    deadline_at = models.DateTimeField(null=True, blank=True, help_text="when its grant ends, and it with it")
    needs_moderator = models.BooleanField(default=False, help_text="input waits for somebody to watch, by policy")
    role_arn = models.CharField(max_length=256, blank=True, help_text="by policy; empty: the account's own role")
    created_at = models.DateTimeField(default=now, editable=False)
    started_at = models.DateTimeField(null=True, help_text="when StartSession answered")
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=256, blank=True, help_text="in words, for the user")
    end_requested_at = models.DateTimeField(null=True, help_text="somebody asked for the end; the owner carries it out")
    end_requested_by = models.CharField(max_length=150, blank=True)
    terminate_due_at = models.DateTimeField(
        null=True, help_text="AWS has not confirmed the end yet; when it is asked again"
    )
    # Who holds the data channel. The epoch grows with each owner, so that a late one knows that it is late.
    owner = models.CharField(max_length=128, blank=True, help_text="host:port:token of a terminal process")
    owner_host = models.CharField(max_length=128, blank=True, help_text="where the journal lies")
    owner_epoch = models.PositiveIntegerField(default=0)
    owner_seen_at = models.DateTimeField(null=True)
    cols = models.PositiveSmallIntegerField(default=80)
    rows = models.PositiveSmallIntegerField(default=24)
    people = models.JSONField(default=list, blank=True, help_text="who is there, as its owner told last: live.People")
    encryption = models.JSONField(
        default=dict, blank=True, help_text="of a session under a KMS key: its data key as KMS sealed it; encryption.py"
    )
    output_bytes = models.BigIntegerField(default=0)
    chain_head = models.CharField(max_length=64, blank=True, help_text="hash of the last sealed chunk, in hex")
    sealed_at = models.DateTimeField(null=True, help_text="when the last chunk of an ended session was sealed")
    # Of a command, and of a forward; known once it has ended.
    exit_code = models.IntegerField(null=True, blank=True)
    bytes_to_instance = models.BigIntegerField(null=True, blank=True)
    bytes_from_instance = models.BigIntegerField(null=True, blank=True)
    connections = models.PositiveIntegerField(null=True, blank=True)
    commands_done_at = models.DateTimeField(null=True, help_text="when the command log had all of an ended session")

    objects = TerminalSessionQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["state", "owner_seen_at"], name="session_state"),
            models.Index(fields=["user", "-created_at"], name="session_user"),
            models.Index(
                fields=["terminate_due_at"],
                name="session_unconfirmed",
                condition=models.Q(terminate_due_at__isnull=False),
            ),
            models.Index(
                fields=["owner_host"], name="session_commands_due", condition=models.Q(commands_done_at__isnull=True)
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "region", "ssm_session_id"],
                name="session_once_a_region",
                condition=~models.Q(ssm_session_id=""),
            )
        ]
        default_permissions = ()
        permissions = [
            ("open_terminalsession", "May open a shell"),
            ("review_terminalsession", "May see everybody's sessions and recordings"),
            ("end_terminalsession", "May end anybody's session"),
        ]

    def __str__(self) -> str:
        return f"{self.user_name} on {self.instance_name}"

    def get_absolute_url(self) -> str:
        has_terminal = self.is_live and self.kind not in (SessionKind.FORWARD, SessionKind.TRANSFER)
        return reverse("sessions:terminal" if has_terminal else "sessions:replay", args=[self.pk])

    @property
    def what(self) -> str:
        """What it carries, in words; empty for a shell."""
        given = {name: values[0] for name, values in self.parameters.items() if values}
        if self.kind == SessionKind.FORWARD:
            host = given.get("host")
            port = given.get("portNumber", "its usual one")
            return f"Port {port} of {host}, forwarded" if host else f"Port {port}, forwarded"
        if self.kind == SessionKind.TRANSFER:
            return paths.what(self.parameters)
        return f"Command: {plain(given.get('command', self.document))}" if self.kind == SessionKind.COMMAND else ""

    @property
    def is_live(self) -> bool:
        return self.state in {SessionState.OPENING, SessionState.OPEN}

    @property
    def people_there(self) -> list[dict[str, str]]:
        """Who is there, as its owner told last; nobody once it is over."""
        return self.people if self.is_live else []

    @property
    def others_there(self) -> list[dict[str, str]]:
        """The same without its own user."""
        return [each for each in self.people_there if each["id"] != str(self.user_id)]

    @property
    def windows_build(self) -> int:
        """Of an instance with Windows the build of "10.0.20348" (1 if it does not say); else 0. Browsers need it."""
        instance = self.instance_row
        if instance is None or instance.platform_type != "Windows":
            return 0
        build = instance.platform_version.split(".")[2:3]
        return int(build[0]) if build and build[0].isdecimal() else 1

    @property
    def lasted(self) -> timedelta:
        """How long it was, or is, open; nothing if no shell ever was."""
        if self.started_at is None:
            return timedelta()
        return (self.ended_at or now()) - self.started_at


class GrantQuerySet(models.QuerySet):
    def visible_to(self, user) -> "GrantQuerySet":
        """One's own; those that one may approve; everybody's for who may review sessions."""
        if not user.is_authenticated:
            return self.none()
        if user.has_perm("sessions_app.review_terminalsession"):
            return self
        return self.filter(models.Q(user_id=user.pk) | models.Q(request__in=ApprovalRequest.objects.visible_to(user)))


class Grant(models.Model):
    """A time-limited permission to open sessions that others approved, or are asked to approve."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    user_name = models.CharField(max_length=150)
    request = models.OneToOneField(ApprovalRequest, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=9, choices=GrantState, default=GrantState.ASKED)
    kind = models.CharField(max_length=8, choices=SessionKind, default=SessionKind.SHELL)
    expression = models.CharField(max_length=4000, blank=True, help_text="what its instances were chosen by")
    run_as = models.CharField(max_length=64, blank=True, help_text="OS user; empty: the one that the policy gives")
    document = models.CharField(max_length=128, blank=True, help_text="session document; empty: a plain shell")
    destination = models.CharField(max_length=300, blank=True, help_text="of a forwarded port: host:port")
    reason = models.CharField(max_length=256)
    asked_start_at = models.DateTimeField(null=True, help_text="not before; empty: once it is approved")
    minutes = models.PositiveIntegerField(help_text="how long it holds")
    approvals = models.PositiveSmallIntegerField(default=0, help_text="so many have approved it")
    starts_at = models.DateTimeField(null=True)
    ends_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=now, editable=False)
    closed_at = models.DateTimeField(null=True, help_text="when it was revoked, or its end was written down")
    closed_by = models.CharField(max_length=150, blank=True)
    close_reason = models.CharField(max_length=256, blank=True)

    objects = GrantQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["user", "state"], name="grant_user"),
            models.Index(fields=["state", "ends_at"], name="grant_state"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=~models.Q(state=GrantState.ACTIVE)
                | models.Q(starts_at__isnull=False, ends_at__gt=models.F("starts_at")),
                name="grant_ends_after_it_starts",
            )
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.get_kind_display()} for {self.user_name}"

    def get_absolute_url(self) -> str:
        return reverse("sessions:grant", args=[self.pk])

    def holds(self, at: datetime) -> bool:
        """Whether sessions may be open by it. The row may say that it is active a little longer: see grants.settle."""
        return self.state == GrantState.ACTIVE and self.starts_at <= at < self.ends_at


class GrantTarget(models.Model):
    """One instance that a grant is for, pinned when it was asked for."""

    grant = models.ForeignKey(Grant, on_delete=models.CASCADE, related_name="targets")
    instance_row = models.ForeignKey(Instance, on_delete=models.SET_NULL, null=True, related_name="+")
    # Copied, so that it outlives its instance's row.
    instance_id = models.CharField(max_length=64)
    instance_name = models.CharField(max_length=255)
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)

    class Meta:
        ordering = ["instance_name", "instance_id"]
        constraints = [
            models.UniqueConstraint(
                fields=["grant", "account_id", "region", "instance_id"], name="grant_target_once_a_grant"
            )
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return self.instance_name


class SessionMessage(models.Model):
    """What somebody says to the people at a live session; its owner shows and records it."""

    session = models.ForeignKey(TerminalSession, on_delete=models.PROTECT, related_name="messages")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    author_name = models.CharField(max_length=150)
    text = models.CharField(max_length=500)
    created_at = models.DateTimeField(default=now, editable=False)
    shown_at = models.DateTimeField(null=True, help_text="when the owner had recorded it and told who was there")

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["session"], name="message_not_shown", condition=models.Q(shown_at__isnull=True))
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.author_name}: {self.text}"


class StreamToken(models.Model):
    """The word that lets a client of the command line into a session's stream, once and soon. Only a digest is kept."""

    digest = models.CharField(max_length=64, primary_key=True, help_text="SHA-256, in hex")
    session = models.ForeignKey(TerminalSession, on_delete=models.CASCADE, related_name="+")
    # By what its bearer may be there; what is revoked takes it along.
    access_key = models.ForeignKey(AccessKey, on_delete=models.CASCADE, null=True, related_name="+")
    api_token = models.ForeignKey(ApiToken, on_delete=models.CASCADE, null=True, related_name="+")
    source_address = models.CharField(max_length=64, blank=True)
    is_ours = models.BooleanField(default=False, help_text="for `fleetops connect`, which takes longer messages")
    expires_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="streamtoken_end")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"stream of {self.session_id}"


class TokenDenial(models.Model):
    """AWS credentials of a role that were issued before a moment are denied there, by an inline policy of the role."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account_id = models.CharField(max_length=12)
    role_arn = models.CharField(max_length=256)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    user_name = models.CharField(max_length=150, blank=True, help_text="whose tokens; empty: everybody's")
    denied_before = models.DateTimeField()
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=now, editable=False)
    removed_at = models.DateTimeField(null=True)
    removed_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["role_arn", "-denied_before"], name="token_denial_role")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.user_name or 'everybody'} under {self.role_arn}"


class RecordingChunk(models.Model):
    """A sealed piece of a recording: where it lies in the journal, and its link of the hash chain."""

    session = models.ForeignKey(TerminalSession, on_delete=models.PROTECT, related_name="chunks")
    number = models.PositiveIntegerField(help_text="1 for the first")
    first_offset = models.BigIntegerField(help_text="bytes of journal before it")
    last_offset = models.BigIntegerField(help_text="first_offset of the next")
    first_time_us = models.BigIntegerField(help_text="microseconds from the session's start to its first record")
    last_time_us = models.BigIntegerField()
    output_bytes = models.BigIntegerField(default=0, help_text="shown bytes in it")
    size = models.PositiveIntegerField(help_text="compressed bytes")
    sha256 = models.CharField(max_length=64, help_text="of the compressed bytes; its name in the store")
    chain_hash = models.CharField(max_length=64, help_text="SHA-256 of the link before and this chunk's facts")
    sealed_at = models.DateTimeField(default=now, editable=False)
    sent_at = models.DateTimeField(null=True, help_text="when the recording store had it")

    class Meta:
        ordering = ["session", "number"]
        constraints = [models.UniqueConstraint(fields=["session", "number"], name="chunk_number_once_a_session")]
        indexes = [models.Index(fields=["sent_at"], name="chunk_unsent", condition=models.Q(sent_at=None))]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.session_id} chunk {self.number}"


class CommandQuerySet(models.QuerySet):
    def visible_to(self, user) -> "CommandQuerySet":
        """Commands of one's own sessions; everybody's for who may review them. The policy is asked besides."""
        if user.has_perm("sessions_app.review_terminalsession"):
            return self
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def real(self) -> "CommandQuerySet":
        """Without notices of forged marks, which are no commands."""
        return self.exclude(source=CommandSource.FORGED)


class Command(models.Model):
    """One command of a session's shell, or a notice of a mark that the shell did not make.

    A row is written when the command starts, and once more when it ends, if its end is seen: `ended_at` is set then.
    Nothing of it is changed after its session's `commands_done_at`. The recording is the proof, this an index into it.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    session = models.ForeignKey(TerminalSession, on_delete=models.PROTECT, related_name="commands")
    number = models.PositiveIntegerField(help_text="1 for the first of the session; notices are counted too")
    # Copied from the session, so that a search needs no join.
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    user_name = models.CharField(max_length=150)
    instance_id = models.CharField(max_length=64)
    instance_name = models.CharField(max_length=255)
    account_id = models.CharField(max_length=12)
    source = models.CharField(max_length=8, choices=CommandSource)
    text = models.TextField(help_text="as the source has it; of a forged mark: what it claimed")
    is_cut = models.BooleanField(default=False, help_text="the text was longer than what is kept")
    is_masked = models.BooleanField(default=False, help_text="a value that looked like a secret was left out")
    is_disputed = models.BooleanField(default=False, help_text="screen and shell disagree, or a mark was forged")
    dispute = models.CharField(max_length=256, blank=True, help_text="why, in words")
    shown_text = models.TextField(blank=True, help_text="what the screen showed, where that is another text")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, help_text="empty while it runs, and where nobody told its end")
    time_us = models.BigIntegerField(help_text="its start, microseconds since the recording's start")
    output_offset = models.BigIntegerField(help_text="bytes of the session's output before it")
    exit_code = models.IntegerField(null=True, help_text="as the shell told it; empty if it did not")
    cwd = models.CharField(max_length=1024, blank=True, help_text="directory in which it was started")
    os_user = models.CharField(max_length=64, blank=True, help_text="user of the operating system")

    objects = CommandQuerySet.as_manager()

    class Meta:
        ordering = ["session", "number"]
        constraints = [models.UniqueConstraint(fields=["session", "number"], name="command_number_once_a_session")]
        indexes = [
            models.Index(fields=["-started_at", "-id"], name="command_newest"),
            models.Index(fields=["user", "-started_at", "-id"], name="command_user"),
            models.Index(fields=["instance_id", "-started_at", "-id"], name="command_instance"),
            models.Index(fields=["-started_at", "-id"], name="command_disputed", condition=models.Q(is_disputed=True)),
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return self.text

    @property
    def seconds(self) -> float:
        """Its instant of the recording, to the millisecond behind it: the whole line stands there."""
        return -(-self.time_us // 1000) / 1000

    @property
    def lasted(self) -> timedelta | None:
        return self.ended_at - self.started_at if self.ended_at else None

    def get_absolute_url(self) -> str:
        return f"{reverse('sessions:replay', args=[self.session_id])}?t={self.seconds:.3f}"


class CommandCursor(models.Model):
    """How far a session's output has been read for its commands; written in the transaction of the rows it led to.

    A process that is killed goes on at the safe point, which lies at or before all that rows do not hold yet.
    """

    session = models.OneToOneField(TerminalSession, on_delete=models.PROTECT, primary_key=True, related_name="+")
    output_offset = models.BigIntegerField(default=0, help_text="safe point: bytes of output before it")
    number = models.PositiveIntegerField(default=0, help_text="rows that were written before the safe point")
    state = models.JSONField(default=dict, help_text="what the reader knew at the safe point")
    read_time_us = models.BigIntegerField(default=0, help_text="of the last record that was read")
    updated_at = models.DateTimeField(default=now)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.session_id} at {self.output_offset}"
