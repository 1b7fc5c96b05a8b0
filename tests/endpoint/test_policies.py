"""Who may what: chains of roles and their tags, boundaries, PassRole, resources' own policies, and the simulator."""

import itertools
import json

import pytest
from botocore.exceptions import ClientError

from tests.support.endpoint import running_endpoint

ACCOUNT, STAGING = "111122223333", "444455556666"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
_numbers = itertools.count(1)


def document(*statements, version="2012-10-17") -> str:
    return json.dumps({"Version": version, "Statement": list(statements)})


def allow(action="*", resource="*", **more):
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action="*", resource="*", **more):
    return allow(action, resource, **more) | {"Effect": "Deny"}


def trust(principal, actions=("sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"), **condition):
    return document({"Effect": "Allow", "Principal": {"AWS": principal}, "Action": list(actions), **condition})


def keys_of(answer) -> dict[str, str]:
    made = answer["Credentials"]
    return {
        "aws_access_key_id": made["AccessKeyId"],
        "aws_secret_access_key": made["SecretAccessKey"],
        "aws_session_token": made["SessionToken"],
    }


def code_of(call, /, *args, **parameters) -> str:
    """The code with which a call is refused; "" if it is not."""
    try:
        call(*args, **parameters)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""


@pytest.fixture
def user(aws):
    """Make a user with a policy; its keys."""

    def make(*statements, tags=(), boundary=None):
        name = f"policy-user-{next(_numbers)}"
        given = {"PermissionsBoundary": boundary} if boundary else {}
        aws.client("iam").create_user(UserName=name, Tags=list(tags), **given)
        if statements:
            aws.client("iam").put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document(*statements))
        key = aws.client("iam").create_access_key(UserName=name)["AccessKey"]
        keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        return name, keys

    return make


@pytest.fixture
def role(aws):
    """Make a role; its ARN."""

    def make(*statements, principal=ROOT, **parameters):
        name = f"policy-role-{next(_numbers)}"
        trusting = parameters.pop("trusting", None) or trust(principal)
        iam = aws.client("iam")
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusting, **parameters)["Role"]["Arn"]
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document(*statements))
        return arn

    return make


def tag(**tags):
    return [{"Key": key, "Value": value} for key, value in tags.items()]


# --- chains: tags, source identity, length ---


def test_transitive_tags_go_along_a_chain_and_cannot_be_set_anew(aws, role):
    mine = allow("s3:ListAllMyBuckets", Condition={"StringEquals": {"aws:PrincipalTag/team": "pay"}})
    first, second = role(allow("sts:*")), role(mine)
    sts = aws.client("sts", user="fleetops")
    aws.client("iam").put_user_policy(UserName="fleetops", PolicyName="more", PolicyDocument=document(allow("sts:*")))
    try:
        got = sts.assume_role(
            RoleArn=first, RoleSessionName="ab", Tags=tag(team="pay", cost="7"), TransitiveTagKeys=["team"]
        )
    finally:
        aws.client("iam").delete_user_policy(UserName="fleetops", PolicyName="more")
    assert 0 < got["PackedPolicySize"] < 100
    chained = aws.client("sts", **keys_of(got))
    onward = chained.assume_role(RoleArn=second, RoleSessionName="cd")
    assert aws.client("s3", **keys_of(onward)).list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200
    # What is not transitive stays behind, and may be set anew; what is, may not.
    assert chained.assume_role(RoleArn=second, RoleSessionName="cd", Tags=tag(cost="8"))
    for key in ("team", "TEAM"):
        assert (
            code_of(chained.assume_role, RoleArn=second, RoleSessionName="cd", Tags=tag(**{key: "data"}))
            == "InvalidParameterValue"
        )
    # A third role sees it still.
    third = role(mine)
    aws.client("iam").put_role_policy(
        RoleName=second.rpartition("/")[2], PolicyName="q", PolicyDocument=document(allow("sts:*"))
    )
    last = aws.client("sts", **keys_of(onward)).assume_role(RoleArn=third, RoleSessionName="ef")
    assert aws.client("s3", **keys_of(last)).list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200
    plain = aws.client("sts").assume_role(RoleArn=third, RoleSessionName="ef")
    assert code_of(aws.client("s3", **keys_of(plain)).list_buckets) == "AccessDenied"


def test_a_chain_passes_only_roles_that_let_tags_and_source_identity_be_set(aws, role):
    first = role(allow("sts:*"))
    bare = role(trusting=trust(ROOT, ["sts:AssumeRole"]))
    sts = aws.client("sts")
    plain = sts.assume_role(RoleArn=first, RoleSessionName="ab")
    assert aws.client("sts", **keys_of(plain)).assume_role(RoleArn=bare, RoleSessionName="cd")
    tagged = sts.assume_role(RoleArn=first, RoleSessionName="ab", Tags=tag(a="b"), TransitiveTagKeys=["a"])
    named = sts.assume_role(RoleArn=first, RoleSessionName="ab", SourceIdentity="maria")
    for keys in (tagged, named):
        client = aws.client("sts", **keys_of(keys))
        assert code_of(client.assume_role, RoleArn=bare, RoleSessionName="cd") == "AccessDenied"


def test_a_source_identity_stays_what_it_is(aws, role):
    demanding = {"Condition": {"StringEquals": {"sts:SourceIdentity": "maria"}}}
    first, second = role(allow("sts:*")), role(trusting=trust(ROOT, **demanding))
    third = role(trusting=trust(ROOT, Condition={"StringEquals": {"aws:SourceIdentity": "maria"}}))
    sts = aws.client("sts")
    assert code_of(sts.assume_role, RoleArn=second, RoleSessionName="ab", SourceIdentity="kofi") == "AccessDenied"
    assert code_of(sts.assume_role, RoleArn=second, RoleSessionName="ab") == "AccessDenied"
    client = aws.client("sts", **keys_of(sts.assume_role(RoleArn=first, RoleSessionName="ab", SourceIdentity="maria")))
    assert client.assume_role(RoleArn=second, RoleSessionName="cd")["SourceIdentity"] == "maria"
    assert client.assume_role(RoleArn=third, RoleSessionName="cd", SourceIdentity="maria")["SourceIdentity"] == "maria"
    assert code_of(client.assume_role, RoleArn=second, RoleSessionName="cd", SourceIdentity="kofi") == "AccessDenied"
    # The caller's, not the one that is asked for.
    assert code_of(sts.assume_role, RoleArn=third, RoleSessionName="cd", SourceIdentity="maria") == "AccessDenied"


def test_a_chained_role_lives_an_hour_and_no_role_longer_than_it_says(aws, role):
    long, short = role(allow("sts:*"), MaxSessionDuration=7200), role()
    sts = aws.client("sts")
    assert code_of(sts.assume_role, RoleArn=short, RoleSessionName="ab", DurationSeconds=3601) == "ValidationError"
    got = sts.assume_role(RoleArn=long, RoleSessionName="ab", DurationSeconds=7200)
    chained = aws.client("sts", **keys_of(got))
    assert code_of(chained.assume_role, RoleArn=long, RoleSessionName="ab", DurationSeconds=3601) == "ValidationError"
    assert chained.assume_role(RoleArn=long, RoleSessionName="ab", DurationSeconds=3600)


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"TransitiveTagKeys": ["a"]}, "InvalidParameterValue"),
        ({"Tags": tag(a="1") + tag(A="2")}, "InvalidParameterValue"),
        ({"Tags": tag(**{"aws:x": "1"})}, "InvalidParameterValue"),
        ({"Policy": "{}"}, "MalformedPolicyDocument"),
        ({"Policy": "no policy"}, "MalformedPolicyDocument"),
        ({"Policy": document(allow(["ssm:" + "x" * 99] * 21))}, "ValidationError"),
        ({"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/NoSuchPolicy"}]}, "MalformedPolicyDocument"),
        ({"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}] * 11}, "ValidationError"),
    ],
)
def test_a_bad_request_for_a_session_is_refused(aws, role, parameters, code):
    assert code_of(aws.client("sts").assume_role, RoleArn=role(), RoleSessionName="ab", **parameters) == code


def test_tags_and_policies_have_to_fit_into_the_session(aws, role):
    noise = [{"Key": f"{number}-{number * 7919:x}", "Value": str(number**60)[:250]} for number in range(1, 50)]
    assert (
        code_of(aws.client("sts").assume_role, RoleArn=role(), RoleSessionName="ab", Tags=noise)
        == "PackedPolicyTooLarge"
    )


def test_managed_policies_bound_a_session(aws, role):
    arn = role(allow())
    only_ssm = "arn:aws:iam::aws:policy/AmazonSSMReadOnlyAccess"
    got = aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="ab", PolicyArns=[{"arn": only_ssm}])
    keys = keys_of(got)
    assert aws.client("ssm", **keys).describe_instance_information()["InstanceInformationList"] is not None
    assert code_of(aws.client("s3", **keys).list_buckets) == "AccessDenied"
    # Several are together what the session may at most.
    more = {"Policy": document(allow("s3:*")), "PolicyArns": [{"arn": only_ssm}]}
    wider = keys_of(aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="ab", **more))
    assert aws.client("s3", **wider).list_buckets() and aws.client("ssm", **wider).describe_instance_information()
    assert code_of(aws.client("ec2", **wider).describe_vpcs) == "UnauthorizedOperation"


def test_session_tags_can_be_demanded_by_key_and_value(aws, role):
    condition = {
        "StringEquals": {"aws:RequestTag/team": ["pay", "data"]},
        "ForAllValues:StringEquals": {"aws:TagKeys": ["team", "cost"]},
    }
    arn = role(trusting=trust(ROOT, Condition=condition))
    sts = aws.client("sts")
    assert sts.assume_role(RoleArn=arn, RoleSessionName="ab", Tags=tag(team="pay", cost="1"))
    for tags in ([], tag(team="other"), tag(team="pay", extra="1"), tag(cost="1")):
        assert code_of(sts.assume_role, RoleArn=arn, RoleSessionName="ab", Tags=tags) == "AccessDenied"


def test_a_trust_policys_deny_of_one_user_holds_though_it_trusts_the_account(aws, role, user):
    name, keys = user(allow("sts:*"))
    statements = json.loads(trust(ROOT))["Statement"]
    denying = {
        "Effect": "Deny",
        "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/{name}"},
        "Action": "sts:AssumeRole",
    }
    arn = role(trusting=document(*statements, denying))
    assert aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="ab")
    assert code_of(aws.client("sts", **keys).assume_role, RoleArn=arn, RoleSessionName="ab") == "AccessDenied"


# --- what ends access ---


def test_a_deny_by_token_issue_time_revokes_what_was_given_out_before(aws, role):
    arn = role(allow("s3:*"))
    keys = keys_of(aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="ab"))
    assert aws.client("s3", **keys).list_buckets()
    # As the console's "Revoke active sessions" writes it.
    later = {"DateLessThan": {"aws:TokenIssueTime": "2199-01-01T00:00:00.000Z"}}
    aws.client("iam").put_role_policy(
        RoleName=arn.rpartition("/")[2],
        PolicyName="AWSRevokeOlderSessions",
        PolicyDocument=document(deny(Condition=later)),
    )
    assert code_of(aws.client("s3", **keys).list_buckets) == "AccessDenied"


def test_a_role_or_user_made_anew_under_the_same_name_is_another(aws, role, user):
    arn = role(allow("s3:*"))
    name = arn.rpartition("/")[2]
    keys = keys_of(aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="ab"))
    iam = aws.client("iam")
    iam.delete_role_policy(RoleName=name, PolicyName="p")
    iam.delete_role(RoleName=name)
    assert code_of(aws.client("s3", **keys).list_buckets) == "AccessDenied"
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust(ROOT))
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document(allow("s3:*")))
    assert code_of(aws.client("s3", **keys).list_buckets) == "AccessDenied"

    who, long_lived = user(allow("s3:*"))
    token = keys_of(aws.client("sts", **long_lived).get_session_token())
    assert aws.client("s3", **token).list_buckets()
    iam.delete_access_key(UserName=who, AccessKeyId=long_lived["aws_access_key_id"])
    assert code_of(aws.client("s3", **long_lived).list_buckets) == "InvalidAccessKeyId"
    iam.delete_user_policy(UserName=who, PolicyName="p")
    iam.delete_user(UserName=who)
    iam.create_user(UserName=who)
    iam.put_user_policy(UserName=who, PolicyName="p", PolicyDocument=document(allow("s3:*")))
    assert code_of(aws.client("s3", **token).list_buckets) == "AccessDenied"


# --- boundaries ---


def test_a_users_permissions_boundary_bounds_and_goes(aws, user):
    iam = aws.client("iam")
    boundary = iam.create_policy(PolicyName=f"bound-{next(_numbers)}", PolicyDocument=document(allow("s3:*")))
    boundary = boundary["Policy"]["Arn"]
    name, keys = user(allow())
    assert aws.client("sns", **keys).list_topics()
    iam.put_user_permissions_boundary(UserName=name, PermissionsBoundary=boundary)
    assert iam.get_user(UserName=name)["User"]["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary
    assert code_of(aws.client("sns", **keys).list_topics) == "AuthorizationError"
    assert aws.client("s3", **keys).list_buckets()
    iam.delete_user_permissions_boundary(UserName=name)
    assert aws.client("sns", **keys).list_topics()
    assert code_of(iam.delete_user_permissions_boundary, UserName=name) == "NoSuchEntity"
    missing = f"arn:aws:iam::{ACCOUNT}:policy/no-such"
    assert code_of(iam.put_user_permissions_boundary, UserName=name, PermissionsBoundary=missing) == "NoSuchEntity"
    _, bounded = user(allow(), boundary=boundary)
    assert code_of(aws.client("sns", **bounded).list_topics) == "AuthorizationError"


def test_a_roles_boundary_bounds_and_can_be_demanded_of_who_makes_roles(aws, role, user):
    iam = aws.client("iam")
    boundary = iam.create_policy(PolicyName=f"bound-{next(_numbers)}", PolicyDocument=document(allow("s3:*")))
    boundary = boundary["Policy"]["Arn"]
    arn = role(allow())
    iam.put_role_permissions_boundary(RoleName=arn.rpartition("/")[2], PermissionsBoundary=boundary)
    keys = keys_of(aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="ab"))
    assert aws.client("s3", **keys).list_buckets()
    assert code_of(aws.client("ec2", **keys).describe_vpcs) == "UnauthorizedOperation"
    iam.delete_role_permissions_boundary(RoleName=arn.rpartition("/")[2])
    assert aws.client("ec2", **keys).describe_vpcs()

    demanded = allow("iam:*", Condition={"StringEquals": {"iam:PermissionsBoundary": boundary}})
    _, keys = user(demanded)
    mine = aws.client("iam", **keys)
    name = f"made-{next(_numbers)}"
    parameters = {"RoleName": name, "AssumeRolePolicyDocument": trust(ROOT)}
    assert code_of(mine.create_role, **parameters) == "AccessDenied"
    assert mine.create_role(**parameters, PermissionsBoundary=boundary)
    assert mine.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document(allow()))
    arn = role()
    assert (
        code_of(mine.put_role_policy, RoleName=arn.rpartition("/")[2], PolicyName="p", PolicyDocument=document(allow()))
        == "AccessDenied"
    )


def test_which_policy_may_be_attached_can_be_said(aws, role, user):
    read_only = "arn:aws:iam::aws:policy/ReadOnlyAccess"
    _, keys = user(allow("iam:AttachRolePolicy", Condition={"ArnEquals": {"iam:PolicyARN": read_only}}))
    name = role().rpartition("/")[2]
    mine = aws.client("iam", **keys)
    assert mine.attach_role_policy(RoleName=name, PolicyArn=read_only)
    admin = "arn:aws:iam::aws:policy/AdministratorAccess"
    assert code_of(mine.attach_role_policy, RoleName=name, PolicyArn=admin) == "AccessDenied"


def test_a_refusal_says_which_policy_it_hangs_on(aws, user, role):
    def told(keys) -> str:
        with pytest.raises(ClientError) as caught:
            aws.client("logs", **keys).create_log_group(logGroupName="/told")
        return caught.value.response["Error"]["Message"]

    group = f"logs:CreateLogGroup on resource: arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:/told"
    name, keys = user(allow("s3:*"))
    missing = f"User: arn:aws:iam::{ACCOUNT}:user/{name} is not authorized to perform: {group} because no"
    assert told(keys) == f"{missing} identity-based policy allows the logs:CreateLogGroup action"
    _, keys = user(allow(), deny("logs:*"))
    assert told(keys).endswith(f"{group} with an explicit deny in an identity-based policy")
    bound = aws.client("iam").create_policy(PolicyName=f"b-{next(_numbers)}", PolicyDocument=document(allow("s3:*")))
    _, keys = user(allow(), boundary=bound["Policy"]["Arn"])
    assert told(keys).endswith("because no permissions boundary allows the logs:CreateLogGroup action")
    given = {"RoleArn": role(allow()), "RoleSessionName": "ab"}
    got = aws.client("sts").assume_role(**given, Policy=document(allow("s3:*")))
    assert told(keys_of(got)).endswith("because no session policy allows the logs:CreateLogGroup action")
    got = aws.client("sts").assume_role(**given, Policy=document(allow(), deny("logs:*")))
    assert told(keys_of(got)).endswith("with an explicit deny in a session policy")


def test_what_is_another_accounts_can_be_denied_by_account(aws, user):
    bucket = f"theirs-{next(_numbers)}"
    there = aws.staging_client("s3")
    there.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    there.put_object(Bucket=bucket, Key="a", Body=b"content")
    objects = f"arn:aws:s3:::{bucket}/*"
    there.put_bucket_policy(Bucket=bucket, Policy=own_policy("Allow", {"AWS": ACCOUNT}, "s3:GetObject", objects))
    for account, code in ((STAGING, ""), (ACCOUNT, "AccessDenied")):
        _, keys = user(allow("s3:*", Condition={"StringEquals": {"aws:ResourceAccount": account}}))
        assert code_of(aws.client("s3", **keys).get_object, Bucket=bucket, Key="a") == code


# --- PassRole ---


@pytest.fixture
def profile(aws, role):
    """An instance profile and its role."""
    iam = aws.client("iam")
    name, arn = f"profile-{next(_numbers)}", role()
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=arn.rpartition("/")[2])
    return name, arn


def image(aws) -> str:
    return aws.client("ec2").describe_images()["Images"][0]["ImageId"]


def test_a_role_is_given_to_an_instance_only_by_who_may_pass_it(aws, user, profile):
    name, arn = profile
    launch = {"ImageId": image(aws), "MinCount": 1, "MaxCount": 1, "IamInstanceProfile": {"Name": name}}
    _, keys = user(allow("ec2:*"))
    assert code_of(aws.client("ec2", **keys).run_instances, **launch) == "UnauthorizedOperation"
    condition = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    _, keys = user(allow("ec2:*"), allow("iam:PassRole", arn, Condition=condition))
    mine = aws.client("ec2", **keys)
    instance_id = mine.run_instances(**launch)["Instances"][0]["InstanceId"]
    # Without a profile there is nothing to pass.
    bare = {key: value for key, value in launch.items() if key != "IamInstanceProfile"}
    other = mine.run_instances(**bare)["Instances"][0]["InstanceId"]
    (held,) = mine.describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [instance_id]}]
    )["IamInstanceProfileAssociations"]

    _, keys = user(allow("ec2:*"), allow("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/another"))
    theirs = aws.client("ec2", **keys)
    given = {"IamInstanceProfile": {"Arn": held["IamInstanceProfile"]["Arn"]}}
    assert code_of(theirs.associate_iam_instance_profile, InstanceId=other, **given) == "UnauthorizedOperation"
    assert (
        code_of(theirs.replace_iam_instance_profile_association, AssociationId=held["AssociationId"], **given)
        == "UnauthorizedOperation"
    )
    assert mine.associate_iam_instance_profile(InstanceId=other, **given)
    assert mine.replace_iam_instance_profile_association(AssociationId=held["AssociationId"], **given)
    # One that may be passed is no cover for another that is named beside it.
    iam = aws.client("iam")
    covered = f"profile-{next(_numbers)}"
    iam.create_instance_profile(InstanceProfileName=covered)
    iam.add_role_to_instance_profile(InstanceProfileName=covered, RoleName="ssm-hybrid")
    both = {"Arn": held["IamInstanceProfile"]["Arn"], "Name": covered}
    assert code_of(mine.run_instances, **launch | {"IamInstanceProfile": both}) == "UnauthorizedOperation"
    wrong = {"StringEquals": {"iam:PassedToService": "ssm.amazonaws.com"}}
    _, keys = user(allow("ec2:*"), allow("iam:PassRole", Condition=wrong))
    with pytest.raises(ClientError, match="iam:PassRole on resource: " + arn):
        aws.client("ec2", **keys).run_instances(**launch)


def test_an_association_is_authorised_on_its_instance(aws, user, profile):
    launch = {"ImageId": image(aws), "MinCount": 1, "MaxCount": 1, "IamInstanceProfile": {"Name": profile[0]}}
    instance_id = aws.client("ec2").run_instances(**launch)["Instances"][0]["InstanceId"]
    (held,) = aws.client("ec2").describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [instance_id]}]
    )["IamInstanceProfileAssociations"]
    other = f"arn:aws:ec2:eu-west-1:{ACCOUNT}:instance/i-0000000000000dead"
    own = f"arn:aws:ec2:eu-west-1:{ACCOUNT}:instance/{instance_id}"
    take = {"AssociationId": held["AssociationId"]}
    for resource, code in ((other, "UnauthorizedOperation"), (own, "")):
        _, keys = user(allow("ec2:DisassociateIamInstanceProfile", resource))
        assert code_of(aws.client("ec2", **keys).disassociate_iam_instance_profile, **take) == code


# --- tags of resources ---


def test_an_instance_is_stopped_by_who_may_by_its_tags(aws, user):
    made = aws.client("ec2").run_instances(
        ImageId=image(aws),
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tag(Env="dev")}],
    )["Instances"][0]["InstanceId"]
    for key, value, code in [
        ("aws:ResourceTag/Env", "dev", ""),
        ("ec2:ResourceTag/Env", "dev", ""),
        ("ec2:ResourceTag/Env", "prod", "UnauthorizedOperation"),
        ("aws:ResourceTag/Other", "dev", "UnauthorizedOperation"),
    ]:
        _, keys = user(allow("ec2:StopInstances", Condition={"StringEquals": {key: value}}))
        assert code_of(aws.client("ec2", **keys).stop_instances, InstanceIds=[made]) == code


def test_what_tags_may_be_set_can_be_said(aws, user):
    condition = {"StringEquals": {"aws:RequestTag/team": "pay"}, "ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}}
    _, keys = user(allow(["ec2:*", "iam:*", "logs:*"], Condition=condition))
    launch = {"ImageId": image(aws), "MinCount": 1, "MaxCount": 1}
    ec2, logs = aws.client("ec2", **keys), aws.client("logs", **keys)
    right = [{"ResourceType": "instance", "Tags": tag(team="pay")}]
    made = ec2.run_instances(**launch, TagSpecifications=right)["Instances"][0]["InstanceId"]
    for tags in (tag(team="data"), tag(team="pay", more="x")):
        wrong = [{"ResourceType": "instance", "Tags": tags}]
        assert code_of(ec2.run_instances, **launch, TagSpecifications=wrong) == "UnauthorizedOperation"
        assert code_of(ec2.create_tags, Resources=[made], Tags=tags) == "UnauthorizedOperation"
    assert code_of(ec2.run_instances, **launch) == "UnauthorizedOperation"
    assert logs.create_log_group(logGroupName=f"/t/{next(_numbers)}", tags={"team": "pay"})
    assert code_of(logs.create_log_group, logGroupName="/t/no", tags={"team": "data"}) == "AccessDeniedException"


def test_a_users_own_tags_are_principal_tags(aws, user):
    mine = allow("s3:*", Condition={"StringEquals": {"aws:PrincipalTag/team": "pay"}})
    _, keys = user(mine, tags=tag(team="pay"))
    assert aws.client("s3", **keys).list_buckets()
    _, keys = user(mine, tags=tag(team="data"))
    assert code_of(aws.client("s3", **keys).list_buckets) == "AccessDenied"


def test_a_log_group_may_be_named_with_and_without_its_streams(aws, user):
    name = f"/policies/{next(_numbers)}"
    for resource in (f"log-group:{name}", f"log-group:{name}:*", "log-group:/policies/*"):
        _, keys = user(allow("logs:*", f"arn:aws:logs:eu-west-1:{ACCOUNT}:{resource}"))
        mine = aws.client("logs", **keys)
        assert code_of(mine.create_log_group, logGroupName=name) in {"", "ResourceAlreadyExistsException"}
        assert code_of(mine.create_log_group, logGroupName="/others") == "AccessDeniedException"


# --- the documented statements for sessions ---


def test_a_tag_of_the_instance_says_nothing_of_the_document(aws, user):
    """aws-semantics: with one statement on all resources the document, which has no tag, is refused."""
    node = aws.client("ssm")
    name = f"Shell-{next(_numbers)}"
    content = {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "description": "x", "inputs": {}}
    node.create_document(Name=name, DocumentType="Session", DocumentFormat="JSON", Content=json.dumps(content))
    made = aws.client("ec2").run_instances(
        ImageId=image(aws),
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tag(Env="dev")}],
    )["Instances"][0]["InstanceId"]
    condition = {"StringEquals": {"ssm:resourceTag/Env": "dev"}}
    instances, documents = "arn:aws:ec2:*:*:instance/*", f"arn:aws:ssm:*:*:document/{name}"
    start = {"Target": made, "DocumentName": name}
    for statements, code in [
        ([allow("ssm:StartSession", instances, Condition=condition), allow("ssm:StartSession", documents)], ""),
        ([allow("ssm:StartSession", Condition=condition)], "AccessDeniedException"),
        ([allow("ssm:StartSession", instances), allow("ssm:StartSession", documents)], ""),
        ([allow("ssm:StartSession", instances)], "AccessDeniedException"),
    ]:
        _, keys = user(*statements)
        # It has no agent: who may start a session is told so.
        assert code_of(aws.client("ssm", **keys).start_session, **start) == (code or "TargetNotConnected")


# --- resources with policies of their own ---


def own_policy(effect, principal, actions, resource):
    return document({"Effect": effect, "Principal": principal, "Action": actions, "Resource": resource})


def test_a_queue_of_another_account_is_used_as_its_policy_says(aws):
    name = f"queue-{next(_numbers)}"
    here, there = aws.client("sqs"), aws.staging_client("sqs")
    url = here.create_queue(QueueName=name)["QueueUrl"]
    arn = f"arn:aws:sqs:eu-west-1:{ACCOUNT}:{name}"
    there.create_queue(QueueName=name)  # its own queue of this name is not meant
    assert code_of(there.send_message, QueueUrl=url, MessageBody="a") == "AccessDeniedException"
    policy = own_policy("Allow", {"AWS": STAGING}, "sqs:SendMessage", arn)
    here.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    there.send_message(QueueUrl=url, MessageBody="from there")
    assert code_of(there.receive_message, QueueUrl=url) == "AccessDeniedException"
    assert [message["Body"] for message in here.receive_message(QueueUrl=url)["Messages"]] == ["from there"]
    none = url.replace(name, "no-such-queue")
    assert code_of(there.send_message, QueueUrl=none, MessageBody="a") == "AccessDeniedException"


def test_a_resources_policy_alone_is_enough_within_the_account_and_its_deny_wins(aws, user):
    name, keys = user()
    mine, owner = aws.client("sqs", **keys), aws.client("sqs")
    queue = f"queue-{next(_numbers)}"
    url = owner.create_queue(QueueName=queue)["QueueUrl"]
    arn = f"arn:aws:sqs:eu-west-1:{ACCOUNT}:{queue}"
    assert code_of(mine.send_message, QueueUrl=url, MessageBody="a") == "AccessDeniedException"
    principal = {"AWS": f"arn:aws:iam::{ACCOUNT}:user/{name}"}
    owner.set_queue_attributes(QueueUrl=url, Attributes={"Policy": own_policy("Allow", principal, "sqs:*", arn)})
    assert mine.send_message(QueueUrl=url, MessageBody="a")
    denying = own_policy("Deny", {"AWS": f"arn:aws:iam::{ACCOUNT}:user/admin"}, "sqs:SendMessage", arn)
    owner.set_queue_attributes(QueueUrl=url, Attributes={"Policy": denying})
    assert code_of(owner.send_message, QueueUrl=url, MessageBody="a") == "AccessDeniedException"


def test_a_bucket_of_another_account_is_read_as_its_policy_says(aws):
    bucket = f"policies-{next(_numbers)}"
    here, there = aws.client("s3"), aws.staging_client("s3")
    here.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    here.put_object(Bucket=bucket, Key="a", Body=b"content")
    for call, more in ((there.get_object, {"Key": "a"}), (there.list_objects_v2, {}), (there.delete_bucket, {})):
        assert code_of(call, Bucket=bucket, **more) == "AccessDenied"
    own = f"own-{bucket}"
    there.create_bucket(Bucket=own, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    copy = {"Bucket": own, "Key": "b", "CopySource": f"{bucket}/a"}
    assert code_of(there.copy_object, **copy) == "AccessDenied"
    objects = f"arn:aws:s3:::{bucket}/*"
    here.put_bucket_policy(Bucket=bucket, Policy=own_policy("Allow", {"AWS": STAGING}, "s3:GetObject", objects))
    assert there.get_object(Bucket=bucket, Key="a")["Body"].read() == b"content"
    assert there.copy_object(**copy)
    assert code_of(there.put_object, Bucket=bucket, Key="a", Body=b"x") == "AccessDenied"


def test_a_topic_of_another_account_is_published_to_as_its_policy_says(aws):
    here, there = aws.client("sns"), aws.staging_client("sns")
    arn = here.create_topic(Name=f"topic-{next(_numbers)}")["TopicArn"]
    assert code_of(there.publish, TopicArn=arn, Message="a") == "AuthorizationError"
    policy = own_policy("Allow", {"AWS": STAGING}, "sns:Publish", arn)
    here.set_topic_attributes(TopicArn=arn, AttributeName="Policy", AttributeValue=policy)
    assert there.publish(TopicArn=arn, Message="a")["MessageId"]
    assert code_of(there.get_topic_attributes, TopicArn=arn) == "AuthorizationError"


def test_a_keys_policy_is_its_master(aws, user):
    _, keys = user(allow("kms:*"))
    here, mine, there = aws.client("kms"), aws.client("kms", **keys), aws.staging_client("kms")
    key = here.create_key()["KeyMetadata"]
    alias = f"alias/policies-{next(_numbers)}"
    here.create_alias(AliasName=alias, TargetKeyId=key["KeyId"])
    # The default policy hands it to the account's own policies.
    for by in (key["KeyId"], key["Arn"], alias):
        assert mine.generate_data_key(KeyId=by, KeySpec="AES_256")["Plaintext"]
    assert code_of(there.generate_data_key, KeyId=key["Arn"], KeySpec="AES_256") == "AccessDeniedException"
    admin = {"AWS": [f"arn:aws:iam::{ACCOUNT}:user/admin", STAGING]}
    here.put_key_policy(KeyId=key["KeyId"], PolicyName="default", Policy=own_policy("Allow", admin, "kms:*", "*"))
    assert code_of(mine.generate_data_key, KeyId=alias, KeySpec="AES_256") == "AccessDeniedException"
    assert here.generate_data_key(KeyId=alias, KeySpec="AES_256")
    assert there.generate_data_key(KeyId=key["Arn"], KeySpec="AES_256")["Plaintext"]


def test_what_was_sealed_is_opened_by_who_may_use_that_key_and_no_other(aws, user):
    _, keys = user(allow("kms:*"))
    here, mine = aws.client("kms"), aws.client("kms", **keys)
    closed, open_ = (here.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    for_admin = own_policy("Allow", {"AWS": f"arn:aws:iam::{ACCOUNT}:user/admin"}, "kms:*", "*")
    blob = here.encrypt(KeyId=closed, Plaintext=b"secret")["CiphertextBlob"]
    assert mine.decrypt(CiphertextBlob=blob)["Plaintext"] == b"secret"
    here.put_key_policy(KeyId=closed, PolicyName="default", Policy=for_admin)
    for named in ({}, {"KeyId": closed}, {"KeyId": open_}):
        assert code_of(mine.decrypt, CiphertextBlob=blob, **named) == "AccessDeniedException"
    assert code_of(mine.re_encrypt, CiphertextBlob=blob, DestinationKeyId=open_) == "AccessDeniedException"
    own = mine.encrypt(KeyId=open_, Plaintext=b"mine")["CiphertextBlob"]
    assert code_of(mine.re_encrypt, CiphertextBlob=own, DestinationKeyId=closed) == "AccessDeniedException"
    assert mine.re_encrypt(CiphertextBlob=own, DestinationKeyId=open_)["CiphertextBlob"]
    assert here.decrypt(CiphertextBlob=blob)["Plaintext"] == b"secret"
    # By the key's own name in a policy, though the request names none.
    arn = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{open_}"
    _, keys = user(allow("kms:Decrypt", arn))
    assert aws.client("kms", **keys).decrypt(CiphertextBlob=own)["Plaintext"] == b"mine"
    context = {"StringEquals": {"kms:EncryptionContext:session": "a"}}
    _, keys = user(allow("kms:Decrypt", arn, Condition=context))
    with_context = here.encrypt(KeyId=open_, Plaintext=b"x", EncryptionContext={"session": "a"})["CiphertextBlob"]
    decrypt = aws.client("kms", **keys).decrypt
    assert decrypt(CiphertextBlob=with_context, EncryptionContext={"session": "a"})["Plaintext"] == b"x"
    assert code_of(decrypt, CiphertextBlob=own) == "AccessDeniedException"


def test_a_batch_asks_for_what_each_of_it_asks_for(aws, user):
    bucket = f"batch-{next(_numbers)}"
    owner = aws.client("s3")
    owner.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for key in ("free/a", "kept/b"):
        owner.put_object(Bucket=bucket, Key=key, Body=b"x")
    url = aws.client("sqs").create_queue(QueueName=bucket)["QueueUrl"]
    topic = aws.client("sns").create_topic(Name=bucket)["TopicArn"]
    forbidden = [deny("s3:DeleteObject", f"arn:aws:s3:::{bucket}/kept/*"), deny(["sqs:SendMessage", "sns:Publish"])]
    _, keys = user(allow(["s3:*", "sqs:*", "sns:*"]), *forbidden)
    objects = [{"Key": "free/a"}, {"Key": "kept/b"}]
    mine = aws.client("s3", **keys)
    assert code_of(mine.delete_objects, Bucket=bucket, Delete={"Objects": objects}) == "AccessDenied"
    assert mine.delete_objects(Bucket=bucket, Delete={"Objects": objects[:1]})["Deleted"] == objects[:1]
    entries = [{"Id": "1", "MessageBody": "x"}]
    sqs, sns = aws.client("sqs", **keys), aws.client("sns", **keys)
    assert code_of(sqs.send_message_batch, QueueUrl=url, Entries=entries) == "AccessDeniedException"
    entries = [{"Id": "1", "Message": "x"}]
    assert code_of(sns.publish_batch, TopicArn=topic, PublishBatchRequestEntries=entries) == "AuthorizationError"


def test_a_version_of_an_object_is_another_permission(aws, user):
    bucket = f"versions-{next(_numbers)}"
    owner = aws.client("s3")
    owner.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    owner.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = owner.put_object(Bucket=bucket, Key="a", Body=b"x")["VersionId"]
    _, keys = user(allow(["s3:GetObject", "s3:DeleteObject"]))
    mine = aws.client("s3", **keys)
    assert mine.get_object(Bucket=bucket, Key="a")["Body"].read() == b"x"
    for call in (mine.get_object, mine.delete_object):
        assert code_of(call, Bucket=bucket, Key="a", VersionId=version) == "AccessDenied"


def test_tagging_is_asked_for_by_the_name_that_policies_have(aws, user):
    for action, code in (("tag:GetResources", ""), ("tagging:GetResources", "AccessDeniedException")):
        _, keys = user(allow(action))
        assert code_of(aws.client("resourcegroupstaggingapi", **keys).get_resources) == code


def test_a_path_belongs_to_a_roles_name(aws, user):
    _, keys = user(allow("iam:*", f"arn:aws:iam::{ACCOUNT}:role/apps/*"))
    mine = aws.client("iam", **keys)
    name = f"path-{next(_numbers)}"
    made = {"RoleName": name, "AssumeRolePolicyDocument": trust(ROOT)}
    assert code_of(mine.create_role, **made) == "AccessDenied"
    assert mine.create_role(**made, Path="/apps/")["Role"]["Arn"].endswith(f"role/apps/{name}")
    assert mine.get_role(RoleName=name)["Role"]["RoleName"] == name


def test_a_role_of_an_account_that_is_not_there_is_denied(aws):
    assert (
        code_of(aws.client("sts").assume_role, RoleArn="arn:aws:iam::777777777777:role/x", RoleSessionName="ab")
        == "AccessDenied"
    )


# --- the simulator ---

INSTANCE = f"arn:aws:ec2:eu-west-1:{ACCOUNT}:instance/i-0123456789abcdef0"


def simulated(aws, arn, actions, resources=(), **more):
    given = {"ResourceArns": list(resources)} if resources else {}
    answer = aws.client("iam").simulate_principal_policy(PolicySourceArn=arn, ActionNames=actions, **given, **more)
    return {result["EvalActionName"]: result for result in answer["EvaluationResults"]}


def test_the_simulator_tells_the_deciding_statements_and_where_they_stand(aws, user):
    name, _ = user()
    arn = f"arn:aws:iam::{ACCOUNT}:user/{name}"
    text = '{"Version": "2012-10-17",\n "Statement": [\n  {"Effect": "Allow", "Action": "ssm:*", "Resource": "*"},\n'
    text += '  {"Effect": "Deny", "Action": "ssm:SendCommand", "Resource": "*"}\n ]}'
    aws.client("iam").put_user_policy(UserName=name, PolicyName="own", PolicyDocument=text)
    found = simulated(aws, arn, ["ssm:StartSession", "ssm:SendCommand", "ec2:RunInstances"], [INSTANCE])
    assert [result["EvalDecision"] for result in found.values()] == ["allowed", "explicitDeny", "implicitDeny"]
    (allowing,) = found["ssm:StartSession"]["MatchedStatements"]
    assert (allowing["SourcePolicyId"], allowing["SourcePolicyType"]) == (f"user_{name}_own", "user")
    assert allowing["StartPosition"] == {"Line": 3, "Column": 3}
    (denying,) = found["ssm:SendCommand"]["MatchedStatements"]
    assert denying["StartPosition"]["Line"] == 4
    assert text.split("\n")[3][2 : denying["EndPosition"]["Column"] - 1] == text.split("\n")[3].strip()
    assert found["ec2:RunInstances"]["MatchedStatements"] == []


def test_several_resources_have_an_answer_each_and_a_missing_key_is_named(aws):
    condition = {"StringEquals": {"ssm:resourceTag/env": "dev"}}
    text = document(allow("ssm:StartSession", "arn:aws:ec2:*", Condition=condition), allow("ssm:*", "arn:aws:ssm:*"))
    documents = f"arn:aws:ssm:eu-west-1:{ACCOUNT}:document/x"
    asked = {
        "PolicyInputList": [text],
        "ActionNames": ["ssm:StartSession"],
        "ResourceArns": [INSTANCE, documents],
    }
    iam = aws.client("iam")
    (result,) = iam.simulate_custom_policy(**asked)["EvaluationResults"]
    assert (result["EvalDecision"], result["MissingContextValues"]) == ("implicitDeny", [])
    first, second = result["ResourceSpecificResults"]
    assert (first["EvalResourceDecision"], second["EvalResourceDecision"]) == ("implicitDeny", "allowed")
    assert (first["MissingContextValues"], second["MissingContextValues"]) == (["ssm:resourceTag/env"], [])
    entry = {
        "ContextKeyName": "ssm:resourceTag/env",
        "ContextKeyType": "string",
        "ContextKeyValues": ["dev"],
    }
    (result,) = iam.simulate_custom_policy(**asked, ContextEntries=[entry])["EvaluationResults"]
    assert result["EvalDecision"] == "allowed"
    assert iam.get_context_keys_for_custom_policy(PolicyInputList=[text])["ContextKeyNames"] == ["ssm:resourceTag/env"]


def test_a_given_boundary_and_resource_policy_are_simulated(aws):
    iam = aws.client("iam")
    asked = {"PolicyInputList": [document(allow())], "ActionNames": ["sqs:SendMessage"]}
    (bound,) = iam.simulate_custom_policy(**asked, PermissionsBoundaryPolicyInputList=[document(allow("s3:*"))])[
        "EvaluationResults"
    ]
    assert bound["EvalDecision"] == "implicitDeny"
    assert bound["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": False}
    queue = f"arn:aws:sqs:eu-west-1:{STAGING}:q"
    caller = f"arn:aws:iam::{ACCOUNT}:user/maria"
    for principal, decision in ((caller, "allowed"), (f"arn:aws:iam::{ACCOUNT}:user/kofi", "implicitDeny")):
        (found,) = iam.simulate_custom_policy(
            **asked,
            ResourceArns=[queue],
            ResourcePolicy=own_policy("Allow", {"AWS": principal}, "sqs:*", queue),
            CallerArn=caller,
        )["EvaluationResults"]
        assert found["EvalDecision"] == decision
    no_caller = {"ResourcePolicy": own_policy("Allow", "*", "sqs:*", queue)}
    assert code_of(iam.simulate_custom_policy, **asked, **no_caller) == "InvalidInput"


def test_a_simulation_comes_in_pages_and_a_bad_one_is_refused(aws):
    iam = aws.client("iam")
    actions = [f"ssm:Do{number}" for number in range(7)]
    pages = iam.get_paginator("simulate_custom_policy").paginate(
        PolicyInputList=[document(allow())], ActionNames=actions, PaginationConfig={"PageSize": 3}
    )
    found = [page["EvaluationResults"] for page in pages]
    assert [len(page) for page in found] == [3, 3, 1]
    assert [result["EvalActionName"] for page in found for result in page] == actions
    for parameters, code in [
        ({"PolicyInputList": ["no"]}, "InvalidInput"),
        ({"PolicyInputList": [document(allow())], "Marker": "!"}, "InvalidInput"),
        ({}, "ValidationError"),
    ]:
        assert code_of(iam.simulate_custom_policy, ActionNames=["ssm:A"], **parameters) == code
    for arn in (f"arn:aws:iam::{ACCOUNT}:user/nobody", f"arn:aws:iam::{STAGING}:user/admin"):
        assert code_of(iam.simulate_principal_policy, PolicySourceArn=arn, ActionNames=["ssm:A"]) == "NoSuchEntity"


def test_who_may_not_simulate_is_refused(aws, user):
    _, keys = user(allow("ssm:*"))
    asked = {"PolicyInputList": [document(allow())], "ActionNames": ["ssm:A"]}
    assert code_of(aws.client("iam", **keys).simulate_custom_policy, **asked) == "AccessDenied"


def test_the_simulator_answers_as_the_call_would(aws, user):
    """Each of some policies, asked of the simulator and tried."""
    group = f"arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:/same"
    iam, tags = aws.client("iam"), tag(team="pay")
    code_of(aws.client("logs").create_log_group, logGroupName="/same")
    code_of(aws.client("logs").create_log_group, logGroupName="/other")
    boundary = iam.create_policy(PolicyName=f"same-{next(_numbers)}", PolicyDocument=document(allow("logs:Describe*")))
    bound = boundary["Policy"]["Arn"]
    cases = [
        ([allow("logs:*")], {}),
        ([allow("logs:*", group)], {}),
        ([allow("logs:*", group), deny("logs:PutRetentionPolicy")], {}),
        ([allow("logs:*"), deny("logs:*", group)], {}),
        ([{"Effect": "Allow", "NotAction": "logs:Put*", "Resource": "*"}], {}),
        ([{"Effect": "Allow", "Action": "logs:*", "NotResource": group}], {}),
        ([allow("logs:*", Condition={"StringEquals": {"aws:PrincipalTag/team": "pay"}})], {"tags": tags}),
        ([allow("logs:*", Condition={"StringEquals": {"aws:PrincipalTag/team": "data"}})], {"tags": tags}),
        ([allow("logs:*", Condition={"StringLike": {"aws:username": "policy-user-*"}})], {}),
        ([allow("logs:*")], {"boundary": bound}),
    ]
    for statements, more in cases:
        name, keys = user(*statements, **more)
        mine = aws.client("logs", **keys)
        tried = {
            "logs:DescribeLogStreams": lambda logs: logs.describe_log_streams(logGroupName="/same"),
            "logs:PutRetentionPolicy": lambda logs: logs.put_retention_policy(logGroupName="/same", retentionInDays=7),
        }
        arn = f"arn:aws:iam::{ACCOUNT}:user/{name}"
        found = simulated(aws, arn, list(tried), [group])
        for action, call in tried.items():
            allowed = code_of(call, mine) != "AccessDeniedException"
            assert (found[action]["EvalDecision"] == "allowed") is allowed, (statements, more, action)
        keys_asked = iam.get_context_keys_for_principal_policy(PolicySourceArn=arn)["ContextKeyNames"]
        assert keys_asked == [
            key for each in statements for block in each.get("Condition", {}).values() for key in block
        ]


# --- what survives ---


def test_a_users_boundary_is_still_there_after_a_kill(tmp_path):
    """From the journal, and then from a snapshot."""
    with running_endpoint(tmp_path / "home") as endpoint:
        iam = endpoint.client("iam")
        bound = iam.create_policy(PolicyName="b", PolicyDocument=document(allow("s3:*")))["Policy"]["Arn"]
        iam.create_user(UserName="bounded")
        iam.put_user_policy(UserName="bounded", PolicyName="p", PolicyDocument=document(allow()))
        key = iam.create_access_key(UserName="bounded")["AccessKey"]
        keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        iam.put_user_permissions_boundary(UserName="bounded", PermissionsBoundary=bound)
        endpoint.environment["FLEETOPS_ENDPOINT_SNAPSHOT_CALLS"] = "1"
        for _ in range(2):
            endpoint.kill()
            endpoint.start_again()
            user = endpoint.client("iam").get_user(UserName="bounded")["User"]
            assert user["PermissionsBoundary"]["PermissionsBoundaryArn"] == bound
            assert "Buckets" in endpoint.client("s3", **keys).list_buckets()
            assert code_of(endpoint.client("ec2", **keys).describe_vpcs) == "UnauthorizedOperation"
            endpoint.client("sns").create_topic(Name="after-which-a-snapshot-is-written")
