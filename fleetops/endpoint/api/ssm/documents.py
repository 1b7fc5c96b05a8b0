"""SSM documents: create, update, default, delete, get, describe, list, share."""

from typing import Any

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.documents import AMAZON, StoredDocument

from .shared import DEFAULT_PAGE, Part, Result, document_arn, read_number, read_token, token

_MOST_SHARED_AT_ONCE = 20
_LISTED_KEYS = {"Name", "Owner", "PlatformTypes", "DocumentType", "TargetType", "SchemaVersion"}
_TWO_TYPES = {"StringList": "StringList", "MapList": "StringList"}  # DescribeDocument knows but these and String


class Documents(Part):
    """The documents of a region, AWS's among them."""

    names = (
        "create_document",
        "update_document",
        "update_document_default_version",
        "delete_document",
        "get_document",
        "describe_document",
        "list_documents",
        "list_document_versions",
        "modify_document_permission",
        "describe_document_permission",
    )

    # Changing

    async def create_document(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        _refuse_attachments(parameters)
        stored = await self.endpoint.documents.create(
            call.account_id,
            call.region,
            name,
            text=parameters["Content"],
            document_format=parameters.get("DocumentFormat", "JSON"),
            document_type=parameters.get("DocumentType", "Command"),
            version_name=parameters.get("VersionName", ""),
            display_name=parameters.get("DisplayName", ""),
            target_type=parameters.get("TargetType", ""),
            tags={item["Key"]: item["Value"] for item in parameters.get("Tags", [])},
            now=call.now,
        )
        call.resources = [stored.arn()]
        return {"DocumentDescription": _description(stored)}

    async def update_document(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        _refuse_attachments(parameters)
        if parameters.get("DocumentVersion") == "$DEFAULT":
            raise ApiError("InvalidDocumentVersion", "A document is updated from its latest version: $LATEST.")
        stored = await self.endpoint.documents.update(
            call.account_id,
            call.region,
            name,
            text=parameters["Content"],
            document_format=parameters.get("DocumentFormat", "JSON"),
            based_on=parameters.get("DocumentVersion", "$LATEST"),
            version_name=parameters.get("VersionName", ""),
            display_name=parameters.get("DisplayName"),
            target_type=parameters.get("TargetType"),
            now=call.now,
        )
        call.resources = [stored.arn()]
        return {"DocumentDescription": _description(stored)}

    async def update_document_default_version(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        number = int(parameters["DocumentVersion"][:9])
        stored = await self.endpoint.documents.set_default(call.account_id, call.region, name, number)
        call.resources = [stored.arn()]
        return {
            "Description": {
                "Name": stored.name,
                "DefaultVersion": str(stored.version),
                "DefaultVersionName": stored.version_name or None,
            }
        }

    async def delete_document(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        await self.endpoint.documents.delete(
            call.account_id,
            call.region,
            name,
            version=parameters.get("DocumentVersion", ""),
            version_name=parameters.get("VersionName", ""),
        )
        call.resources = [document_arn(call, name)]
        return {}

    # Reading

    async def get_document(self, call: Call, parameters: Result) -> Result:
        stored = await self._chosen(call, parameters)
        document_format = parameters.get("DocumentFormat", stored.document_format)
        return {
            "Name": stored.name,
            "CreatedDate": stored.created_at,
            "DisplayName": stored.display_name or None,
            "VersionName": stored.version_name or None,
            "DocumentVersion": str(stored.version),
            "Status": "Active",
            "Content": stored.text_as(document_format),
            "DocumentType": stored.document_type,
            "DocumentFormat": document_format,
        }

    async def describe_document(self, call: Call, parameters: Result) -> Result:
        return {"Document": _description(await self._chosen(call, parameters))}

    async def list_document_versions(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        found = await self.endpoint.documents.versions(call.account_id, call.region, name)
        before = read_number(parameters.get("NextToken"))
        found = [stored for stored in found if before is None or stored.version < before]
        page = found[: parameters.get("MaxResults", DEFAULT_PAGE)]
        return {
            "DocumentVersions": [
                {
                    "Name": stored.name,
                    "DisplayName": stored.display_name or None,
                    "DocumentVersion": str(stored.version),
                    "VersionName": stored.version_name or None,
                    "CreatedDate": stored.created_at,
                    "IsDefaultVersion": stored.version == stored.default_version,
                    "DocumentFormat": stored.document_format,
                    "Status": "Active",
                }
                for stored in page
            ],
            "NextToken": token(str(page[-1].version)) if len(page) < len(found) else None,
        }

    async def list_documents(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        if parameters.get("Filters") and parameters.get("DocumentFilterList"):
            raise ApiError("ValidationException", "Filters and DocumentFilterList cannot be used together.")
        filters = [(item["Key"], item.get("Values", [])) for item in parameters.get("Filters", [])]
        filters += [(item["key"], [item["value"]]) for item in parameters.get("DocumentFilterList", [])]
        found = await self.endpoint.documents.listed(call.account_id, call.region)
        for key, values in filters:
            if key not in _LISTED_KEYS and not key.startswith("tag:"):
                raise ApiError("InvalidFilterKey", f"Invalid filter key: {key}")
            found = [stored for stored in found if _matches(stored, key, values, call.account_id)]
        after = read_token(parameters.get("NextToken"))
        found = [stored for stored in found if stored.name > after]
        page = found[: parameters.get("MaxResults", DEFAULT_PAGE)]
        return {
            "DocumentIdentifiers": [
                {
                    "Name": stored.name,
                    "CreatedDate": stored.created_at,
                    "DisplayName": stored.display_name or None,
                    "Owner": stored.owner,
                    "VersionName": stored.version_name or None,
                    "PlatformTypes": list(stored.platform_types),
                    "DocumentVersion": str(stored.default_version),
                    "DocumentType": stored.document_type,
                    "SchemaVersion": stored.schema_version,
                    "DocumentFormat": stored.document_format,
                    "TargetType": stored.target_type or None,
                    "Tags": _tags(stored),
                }
                for stored in page
            ],
            "NextToken": token(page[-1].name) if len(page) < len(found) else None,
        }

    async def _chosen(self, call: Call, parameters: Result) -> StoredDocument:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        documents = self.endpoint.documents
        if version_name := parameters.get("VersionName"):
            return await documents.find_by_version_name(call.account_id, call.region, name, version_name)
        version = parameters.get("DocumentVersion", "$DEFAULT")
        return await documents.find(call.account_id, call.region, name, version)

    # Sharing

    async def modify_document_permission(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        add, remove = parameters.get("AccountIdsToAdd", []), parameters.get("AccountIdsToRemove", [])
        if len(add) > _MOST_SHARED_AT_ONCE or len(remove) > _MOST_SHARED_AT_ONCE:
            raise ApiError("DocumentPermissionLimit", f"At most {_MOST_SHARED_AT_ONCE} accounts in one request.")
        await self.endpoint.documents.share(
            call.account_id,
            call.region,
            name,
            add=add,
            remove=remove,
            version=parameters.get("SharedDocumentVersion", "$DEFAULT"),
        )
        call.resources = [document_arn(call, name)]
        return {}

    async def describe_document_permission(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        shared = sorted((await self.endpoint.documents.shares(call.account_id, call.region, name)).items())
        after = read_token(parameters.get("NextToken"))
        shared = [item for item in shared if item[0] > after]
        page = shared[: parameters.get("MaxResults", DEFAULT_PAGE)]
        return {
            "AccountIds": [account for account, _ in page],
            "AccountSharingInfoList": [
                {"AccountId": account, "SharedDocumentVersion": version} for account, version in page
            ],
            "NextToken": token(page[-1][0]) if len(page) < len(shared) else None,
        }


def _refuse_attachments(parameters: Result) -> None:
    if parameters.get("Attachments") or parameters.get("Requires"):
        raise ApiError("InvalidDocumentContent", "This endpoint keeps no attachments and no required documents.")


def _matches(stored: StoredDocument, key: str, values: list[str], account_id: str) -> bool:
    if key.startswith("tag:"):
        return stored.tags.get(key.removeprefix("tag:")) in values
    match key:
        case "Name":
            return any(stored.name.startswith(value) for value in values)
        case "DocumentType":
            return stored.document_type in values
        case "PlatformTypes":
            return bool({name.lower() for name in stored.platform_types} & {value.lower() for value in values})
        case "TargetType":
            return stored.target_type in values
        case "SchemaVersion":
            return stored.schema_version in values
    kinds = {"All"}
    if stored.owner == AMAZON:
        kinds |= {"Amazon", "Public"}
    elif stored.owner == account_id:
        kinds |= {"Self", "Private"}
    else:
        kinds |= {"ThirdParty", "Public"}
    return bool(kinds & set(values))


def _tags(stored: StoredDocument) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(stored.tags.items())]


def _description(stored: StoredDocument) -> dict[str, Any]:
    return {
        "Hash": stored.digest,
        "HashType": "Sha256",
        "Name": stored.name,
        "DisplayName": stored.display_name or None,
        "VersionName": stored.version_name or None,
        "Owner": stored.owner,
        "CreatedDate": stored.created_at,
        "Status": "Active",
        "DocumentVersion": str(stored.version),
        "Description": stored.description or None,
        "Parameters": [
            {
                "Name": name,
                "Type": _TWO_TYPES.get(rule.type, "String"),
                "Description": rule.description or None,
                "DefaultValue": rule.default_text,
            }
            for name, rule in stored.parameters.items()
        ],
        "PlatformTypes": list(stored.platform_types),
        "DocumentType": stored.document_type,
        "SchemaVersion": stored.schema_version,
        "LatestVersion": str(stored.latest_version),
        "DefaultVersion": str(stored.default_version),
        "DocumentFormat": stored.document_format,
        "TargetType": stored.target_type or None,
        "Tags": _tags(stored),
    }
