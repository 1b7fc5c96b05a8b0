"""What the endpoint keeps of SSM, CloudTrail and CloudWatch Logs. EC2, IAM and the rest are moto's, in its journal."""

from django.db import models

from fleetops.endpoint.states import ACTIVE, AutomationStatus, CommandStatus, SessionStatus


class Node(models.Model):
    """A managed instance: an EC2 instance or hybrid machine whose agent has reported."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    instance_id = models.CharField(max_length=64)
    information = models.JSONField(default=dict, help_text="UpdateInstanceInformation's members, merged")
    tags = models.JSONField(default=dict, help_text="of a hybrid node; an EC2 instance's are EC2's")
    iam_role = models.CharField(max_length=64, blank=True, help_text="of a hybrid node")
    name = models.CharField(max_length=256, blank=True, help_text="DefaultInstanceName of a hybrid node")
    registered_at = models.DateTimeField()
    last_ping_at = models.DateTimeField(null=True)
    activation_id = models.CharField(max_length=36, blank=True, help_text="with which a hybrid node registered")
    fingerprint = models.CharField(max_length=128, blank=True)
    public_key = models.TextField(blank=True, help_text="base64 of the DER SubjectPublicKeyInfo")
    key_made_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "region", "instance_id"], name="node_once_a_region")
        ]

    def __str__(self):
        return self.instance_id


class Activation(models.Model):
    """What lets machines outside EC2 register: how many, until when, under which role."""

    activation_id = models.UUIDField(unique=True)
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    code_digest = models.CharField(max_length=64, help_text="SHA-256 of the code, which is shown once")
    description = models.CharField(max_length=256, blank=True)
    instance_name = models.CharField(max_length=256, blank=True)
    iam_role = models.CharField(max_length=64)
    limit = models.PositiveSmallIntegerField()
    count = models.PositiveSmallIntegerField(default=0)
    tags = models.JSONField(default=dict)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    def __str__(self):
        return str(self.activation_id)


class SessionQuerySet(models.QuerySet):
    def active(self):
        return self.filter(state__in=ACTIVE)

    def history(self):
        return self.exclude(state__in=ACTIVE)


class Session(models.Model):
    """One Session Manager session."""

    session_id = models.CharField(max_length=96, unique=True)
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    target = models.CharField(max_length=400)
    state = models.CharField(max_length=16, choices=SessionStatus, default=SessionStatus.CONNECTING)
    owner_arn = models.CharField(max_length=256)
    document_name = models.CharField(max_length=128)
    document_content = models.JSONField()
    parameters = models.JSONField(default=dict)
    run_as_user = models.CharField(max_length=128, blank=True)
    reason = models.CharField(max_length=256, blank=True)
    details = models.CharField(max_length=1024, blank=True, help_text="why it ended or failed")
    idle_seconds = models.PositiveIntegerField()
    longest_seconds = models.PositiveIntegerField(help_text="0 for no limit")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    objects = SessionQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["account_id", "region", "state", "-started_at"], name="session_list")]

    def __str__(self):
        return self.session_id


class TrailEvent(models.Model):
    """One request, as CloudTrail records it. Append-only: the database itself refuses a change."""

    event_id = models.UUIDField(unique=True)
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    happened_at = models.DateTimeField()
    source = models.CharField(max_length=64)
    name = models.CharField(max_length=128)
    username = models.CharField(max_length=128, blank=True)
    access_key_id = models.CharField(max_length=128, blank=True)
    read_only = models.BooleanField()
    error_code = models.CharField(max_length=128, blank=True)
    resource_names = models.TextField(blank=True, help_text="one a line, with a line break before and after each")
    resource_types = models.TextField(null=True, help_text="likewise; null in rows from before there were any")
    body = models.TextField(help_text="the whole event, JSON")

    class Meta:
        indexes = [models.Index(fields=["account_id", "region", "-happened_at"], name="trail_lookup")]

    def __str__(self):
        return f"{self.source} {self.name} {self.event_id}"


class LogStream(models.Model):
    """What was put into one stream of CloudWatch Logs. The stream itself is moto's; it has a row once it has events."""

    key = models.CharField(
        max_length=32, unique=True, help_text="moto's stream; one that is made anew under its name has another"
    )
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    group = models.CharField(max_length=512)
    name = models.CharField(max_length=512)
    # Milliseconds since 1970, as all times of CloudWatch Logs.
    first_event_at = models.BigIntegerField(null=True)
    last_event_at = models.BigIntegerField(null=True)
    last_ingested_at = models.BigIntegerField(null=True)
    stored_bytes = models.BigIntegerField(default=0, help_text="as AWS counts: 26 for each event, and its UTF-8")
    taken_over = models.PositiveIntegerField(default=0, help_text="events that moto held before they were ours")

    class Meta:
        indexes = [models.Index(fields=["account_id", "region", "group"], name="log_stream_group")]

    def __str__(self):
        return f"{self.group} {self.name}"


class LogEvent(models.Model):
    """One event of a stream. Events of one moment stay in the order in which they came: that of their ids."""

    stream = models.ForeignKey(LogStream, on_delete=models.CASCADE, related_name="events", db_index=False)
    timestamp = models.BigIntegerField()
    ingested_at = models.BigIntegerField()
    message = models.BinaryField(help_text="UTF-8, and may hold zeros, which a text column of PostgreSQL does not")

    class Meta:
        indexes = [models.Index(fields=["stream", "timestamp", "id"], name="log_event_order")]

    def __str__(self):
        return f"{self.timestamp} {bytes(self.message[:80])!r}"


class Document(models.Model):
    """An SSM document of an account and region; AWS's own stand in aws_documents.py."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    name = models.CharField(max_length=128)
    document_type = models.CharField(max_length=32)
    default_version = models.PositiveIntegerField(default=1)
    latest_version = models.PositiveIntegerField(default=1)
    tags = models.JSONField(default=dict)
    shared_with = models.JSONField(default=dict, help_text="account id or all: $DEFAULT, $LATEST or $ALL")
    created_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account_id", "region", "name"], name="document_once_a_region")]

    def __str__(self):
        return self.name


class DocumentVersion(models.Model):
    """One content of a document; it never changes."""

    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    version_name = models.CharField(max_length=128, null=True)  # null, so that many may have none
    display_name = models.CharField(max_length=1024, blank=True)
    target_type = models.CharField(max_length=200, blank=True)
    text = models.TextField(help_text="as it was given")
    document_format = models.CharField(max_length=4)
    digest = models.CharField(max_length=64, help_text="SHA-256 of the text, hexadecimal")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["document", "number"], name="document_version_once"),
            models.UniqueConstraint(fields=["document", "version_name"], name="document_version_name_once"),
        ]

    def __str__(self):
        return f"{self.document_id}:{self.number}"


class Command(models.Model):
    """One SendCommand."""

    command_id = models.UUIDField(unique=True)
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    document_name = models.CharField(max_length=128)
    document_version = models.CharField(max_length=16, blank=True, help_text="as it was asked for")
    document_content = models.JSONField()
    given = models.JSONField(default=dict, help_text="the parameters as they were given")
    parameters = models.JSONField(default=dict, help_text="as a node takes them")
    comment = models.CharField(max_length=100, blank=True)
    instance_ids = models.JSONField(default=list)
    targets = models.JSONField(default=list)
    timeout_seconds = models.PositiveIntegerField()
    execution_seconds = models.PositiveIntegerField(help_text="how long its steps may run in all")
    max_concurrency = models.CharField(max_length=7)
    max_errors = models.CharField(max_length=7)
    output = models.JSONField(default=dict, help_text="bucket, prefix and region; log group")
    state = models.CharField(max_length=16, choices=CommandStatus, default=CommandStatus.PENDING)
    details = models.CharField(max_length=100, default="Pending")
    target_count = models.PositiveIntegerField()
    requested_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["account_id", "region", "-id"], name="command_list")]

    def __str__(self):
        return str(self.command_id)


class Invocation(models.Model):
    """A command's life on one node."""

    command = models.ForeignKey(Command, on_delete=models.CASCADE, related_name="invocations")
    instance_id = models.CharField(max_length=64)
    instance_name = models.CharField(max_length=256, blank=True)
    state = models.CharField(max_length=16, choices=CommandStatus, default=CommandStatus.PENDING)
    details = models.CharField(max_length=100, default="Pending")
    trace_output = models.CharField(max_length=2500, blank=True)
    steps = models.JSONField(default=dict, help_text="by name: status, code, output and so on, as replied")
    sent_at = models.DateTimeField(null=True, help_text="first told to the node")
    taken_at = models.DateTimeField(null=True, help_text="acknowledged by the node")
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["command", "instance_id"], name="invocation_once_a_command")]
        indexes = [models.Index(fields=["instance_id", "-id"], name="invocation_of_node")]

    def __str__(self):
        return f"{self.command_id}.{self.instance_id}"


class InventoryItem(models.Model):
    """What a node last put of one type of inventory; its own report (AWS:InstanceInformation) is in Node."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    instance_id = models.CharField(max_length=64)
    type_name = models.CharField(max_length=100)
    schema_version = models.CharField(max_length=13)
    capture_time = models.CharField(max_length=20, help_text="as the node wrote it")
    content_hash = models.CharField(max_length=256, blank=True)
    context = models.JSONField(default=dict)
    content = models.TextField(help_text="JSON without blanks: a list of objects with texts")
    size = models.PositiveIntegerField(help_text="bytes of the content")
    put_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "region", "instance_id", "type_name"], name="inventory_item_once_a_node"
            )
        ]
        indexes = [models.Index(fields=["account_id", "region", "type_name"], name="inventory_type")]

    def __str__(self):
        return f"{self.instance_id} {self.type_name}"


class InventorySchema(models.Model):
    """A version of a custom inventory type, made by the first put of it."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    type_name = models.CharField(max_length=100)
    version = models.CharField(max_length=13)
    attributes = models.JSONField(default=list, help_text="every name that was put")
    is_disabled = models.BooleanField(default=False, help_text="what is put of it is ignored")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "region", "type_name", "version"], name="inventory_schema_once_a_region"
            )
        ]

    def __str__(self):
        return f"{self.type_name} {self.version}"


class InventoryDeletion(models.Model):
    """One DeleteInventory; it is complete when it is answered."""

    deletion_id = models.UUIDField(unique=True)
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    type_name = models.CharField(max_length=100)
    client_token = models.CharField(max_length=36, null=True)  # null, so that many may have none
    counts = models.JSONField(default=dict, help_text="items that were deleted, by schema version")
    started_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "region", "client_token"], name="inventory_deletion_once")
        ]

    def __str__(self):
        return str(self.deletion_id)


class Compliance(models.Model):
    """What was last put of one compliance type for one node."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    resource_id = models.CharField(max_length=64)
    compliance_type = models.CharField(max_length=100)
    status = models.CharField(max_length=13, help_text="NON_COMPLIANT if one item is")
    severity = models.CharField(max_length=13, help_text="the highest of the items that are not compliant")
    counts = models.JSONField(default=dict, help_text="items by status, and by severity within it")
    execution_id = models.CharField(max_length=100, blank=True)
    execution_type = models.CharField(max_length=50, blank=True)
    executed_at = models.DateTimeField()
    content_hash = models.CharField(max_length=256, blank=True)
    items = models.TextField(help_text="JSON: a list of ComplianceItemEntry")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "region", "resource_id", "compliance_type"], name="compliance_once_a_node"
            )
        ]
        indexes = [models.Index(fields=["account_id", "region", "compliance_type", "status"], name="compliance_status")]

    def __str__(self):
        return f"{self.resource_id} {self.compliance_type}"


class PatchBaseline(models.Model):
    """A patch baseline of an account and region; AWS's own stand in patch/predefined.py."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    baseline_id = models.CharField(max_length=20, help_text="pb- and 17 hexadecimal digits")
    name = models.CharField(max_length=128)
    operating_system = models.CharField(max_length=32)
    description = models.CharField(max_length=1024, blank=True)
    content = models.JSONField(
        default=dict, help_text="filters, rules, lists and so on, in CreatePatchBaseline's members"
    )
    tags = models.JSONField(default=dict)
    client_token = models.CharField(max_length=64, null=True)  # null, so that many may have none
    request_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the request with the token")
    created_at = models.DateTimeField()
    modified_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "region", "baseline_id"], name="baseline_once_a_region"),
            models.UniqueConstraint(fields=["account_id", "region", "client_token"], name="baseline_token_once"),
        ]

    def __str__(self):
        return f"{self.baseline_id} {self.name}"


class PatchRegistration(models.Model):
    """Which baseline is the default of an operating system, or that of a patch group on it."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    operating_system = models.CharField(max_length=32)
    patch_group = models.CharField(max_length=256, blank=True, help_text="empty for the default")
    baseline_id = models.CharField(max_length=128, help_text="an ARN where it is AWS's own")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "region", "operating_system", "patch_group"], name="baseline_once_a_group"
            )
        ]

    def __str__(self):
        return f"{self.operating_system} {self.patch_group or '(default)'}: {self.baseline_id}"


class PatchSnapshot(models.Model):
    """A baseline as it was when a snapshot's id was first used, for the nodes of one system and group."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    snapshot_id = models.CharField(max_length=36)
    operating_system = models.CharField(max_length=32)
    patch_group = models.CharField(max_length=256, blank=True)
    baseline_id = models.CharField(max_length=128)
    baseline_name = models.CharField(max_length=128)
    content = models.JSONField(default=dict)
    is_override = models.BooleanField(default=False)
    taken_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "region", "snapshot_id", "operating_system", "patch_group"],
                name="snapshot_once_a_group",
            )
        ]

    def __str__(self):
        return self.snapshot_id


class PatchReport(models.Model):
    """What the last run of AWS-RunPatchBaseline found on a node."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    instance_id = models.CharField(max_length=64)
    patch_group = models.CharField(max_length=256, blank=True)
    baseline_id = models.CharField(max_length=128)
    snapshot_id = models.CharField(max_length=36, blank=True)
    command_id = models.CharField(max_length=36, blank=True)
    operation = models.CharField(max_length=8)
    reboot_option = models.CharField(max_length=16)
    install_override_list = models.CharField(max_length=256, blank=True)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    no_reboot_install_at = models.DateTimeField(null=True)
    counts = models.JSONField(default=dict, help_text="patches by state")
    critical_count = models.PositiveIntegerField(default=0, help_text="not compliant, of the level CRITICAL")
    security_count = models.PositiveIntegerField(default=0, help_text="not compliant, of a security class")
    other_count = models.PositiveIntegerField(default=0, help_text="not compliant, and neither")
    status = models.CharField(max_length=13)
    severity = models.CharField(max_length=13)
    patches = models.TextField(help_text="JSON: a list of PatchFact")
    untold = models.JSONField(null=True, help_text="the event that EventBridge has still to be told")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "region", "instance_id"], name="patch_report_once_a_node")
        ]
        indexes = [models.Index(fields=["account_id", "region", "patch_group"], name="patch_report_group")]

    def __str__(self):
        return f"{self.instance_id} {self.operation} {self.ended_at}"


class SecurityHub(models.Model):
    """Whether an account has Security Hub in a region."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    subscribed_at = models.DateTimeField(null=True, help_text="null where it is disabled")
    generator = models.CharField(max_length=32, default="SECURITY_CONTROL")
    controls_enabled = models.BooleanField(default=True, help_text="AutoEnableControls")
    tags = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account_id", "region"], name="security_hub_once_a_region")]

    def __str__(self):
        return f"{self.account_id} {self.region}"


class Finding(models.Model):
    """One finding of Security Hub. The columns are of the finding as it is told, to be found and sorted by."""

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    product_arn = models.CharField(max_length=256)
    finding_id = models.CharField(max_length=512)
    body = models.TextField(help_text="what its provider says, JSON in the Security Finding Format")
    said = models.JSONField(default=dict, help_text="what its readers say over it: note, workflow and so on")
    generator_id = models.CharField(max_length=512)
    title = models.CharField(max_length=256)
    resource_id = models.CharField(max_length=512, help_text="of the first resource")
    record_state = models.CharField(max_length=8)
    workflow_status = models.CharField(max_length=10)
    compliance_status = models.CharField(max_length=13, blank=True)
    severity_label = models.CharField(max_length=13)
    severity_normalized = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "region", "product_arn", "finding_id"], name="finding_once_a_region"
            )
        ]
        indexes = [models.Index(fields=["account_id", "region", "-updated_at"], name="finding_newest")]

    def __str__(self):
        return self.finding_id


class AutomationExecution(models.Model):
    """One StartAutomationExecution, or one target of one."""

    execution_id = models.UUIDField(unique=True)
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    document_name = models.CharField(max_length=256, help_text="as it was asked for: a name, or an ARN")
    document_version = models.CharField(max_length=16, help_text="a number")
    document_content = models.JSONField()
    given = models.JSONField(default=dict, help_text="the parameters as they were given")
    parameters = models.JSONField(default=dict, help_text="with the defaults, each of its type")
    variables = models.JSONField(default=dict)
    mode = models.CharField(max_length=11, default="Auto")
    client_token = models.CharField(max_length=36, null=True)  # null, so that many may have none
    request_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the request with the token")
    principal = models.JSONField(help_text="who started it, as calls.Principal has it: it acts as this one")
    assume_role = models.CharField(max_length=600, blank=True, help_text="the ARN of the role that it acts as instead")
    executed_by = models.CharField(max_length=2048)
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE, related_name="children")
    target = models.CharField(max_length=600, blank=True, help_text="of a target's own execution")
    aim = models.JSONField(default=dict, help_text="targets and rate control, in StartAutomationExecution's members")
    resolved = models.JSONField(default=list, help_text="what the targets were found to be: parameters by their names")
    tags = models.JSONField(default=dict)
    alarm = models.JSONField(default=dict, help_text="AlarmConfiguration; no alarm stops anything here")
    state = models.CharField(max_length=16, choices=AutomationStatus, default=AutomationStatus.PENDING)
    stop = models.CharField(max_length=8, blank=True, help_text="Cancel or Complete, once somebody has asked for it")
    current_step = models.CharField(max_length=128, blank=True)
    current_action = models.CharField(max_length=64, blank=True)
    failure_message = models.TextField(blank=True)
    outputs = models.JSONField(default=dict)
    memo = models.JSONField(default=dict, help_text="what the engine has to know again after a kill")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "region", "client_token"], name="automation_token_once")
        ]
        indexes = [models.Index(fields=["account_id", "region", "-id"], name="automation_list")]

    def __str__(self):
        return str(self.execution_id)


class AutomationStep(models.Model):
    """One step of an execution; of an execution with targets, one target."""

    step_id = models.UUIDField(unique=True)
    execution = models.ForeignKey(AutomationExecution, on_delete=models.CASCADE, related_name="steps")
    name = models.CharField(max_length=600)
    action = models.CharField(max_length=64)
    position = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=AutomationStatus, default=AutomationStatus.PENDING)
    inputs = models.JSONField(default=dict, help_text="resolved; each as JSON")
    outputs = models.JSONField(default=dict, help_text="lists of texts by name, as the API shows them")
    values = models.JSONField(default=dict, help_text="the outputs, each of its type")
    response = models.TextField(blank=True)
    response_code = models.CharField(max_length=16, blank=True)
    failure_message = models.TextField(blank=True)
    failure_details = models.JSONField(default=dict)
    memo = models.JSONField(default=dict, help_text="what the engine has to know again after a kill")
    loop = models.ForeignKey("self", null=True, on_delete=models.CASCADE, related_name="inner")
    iteration = models.PositiveIntegerField(default=0, help_text="of its loop, from 1")
    iterator_value = models.TextField(blank=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["execution", "position"], name="automation_step_once_a_position")
        ]

    def __str__(self):
        return f"{self.execution_id}:{self.name}"
