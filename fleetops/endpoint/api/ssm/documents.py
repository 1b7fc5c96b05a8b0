"""SSM documents."""

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint import session_documents
from fleetops.endpoint.calls import Call

from .shared import DEFAULT_PAGE, Part, Result, document_arn, read_token, token


class Documents(Part):
    """The documents of a region, AWS's among them."""

    names = ("get_document", "describe_document", "list_documents")

    async def get_document(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        _check_version(parameters)
        return {
            "Name": name,
            "DocumentVersion": "1",
            "Status": "Active",
            "Content": session_documents.text_of(name),
            "DocumentType": "Session",
            "DocumentFormat": "JSON",
        }

    async def describe_document(self, call: Call, parameters: Result) -> Result:
        name = parameters["Name"]
        await self.allow(call, [document_arn(call, name)])
        _check_version(parameters)
        document = session_documents.find(name)
        return {
            "Document": {
                "Hash": session_documents.digest(name),
                "HashType": "Sha256",
                "Name": name,
                "Owner": session_documents.owner(name) or call.account_id,
                "Status": "Active",
                "DocumentVersion": "1",
                "Description": document["description"],
                "Parameters": [
                    {
                        "Name": parameter,
                        "Type": rule["type"],
                        "Description": rule.get("description"),
                        "DefaultValue": rule.get("default"),
                    }
                    for parameter, rule in document.get("parameters", {}).items()
                ],
                "PlatformTypes": ["Windows", "Linux", "MacOS"],
                "DocumentType": "Session",
                "SchemaVersion": "1.0",
                "LatestVersion": "1",
                "DefaultVersion": "1",
                "DocumentFormat": "JSON",
                "Tags": [],
            }
        }

    async def list_documents(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        names = sorted(session_documents.DOCUMENTS)
        filters = {item["Key"]: item["Values"] for item in parameters.get("Filters", []) if item.get("Values")}
        filters |= {item["key"]: [item["value"]] for item in parameters.get("DocumentFilterList", [])}
        for key, values in filters.items():
            if key == "DocumentType":
                names = names if "Session" in values else []
            elif key == "Name":
                names = [name for name in names if any(name.startswith(value) for value in values)]
            elif key == "Owner":
                wanted = {"Amazon"} if set(values) & {"Amazon", "Public", "All"} else set()
                wanted |= {""} if set(values) & {"Self", "Private", "All"} else set()
                names = [name for name in names if session_documents.owner(name) in wanted]
            elif key == "PlatformTypes":
                names = names if {value.lower() for value in values} & {"linux", "windows", "macos"} else []
            elif not key.startswith("tag:"):
                raise ApiError("InvalidFilterKey", f"Invalid filter key: {key}")
            else:
                names = []
        after = read_token(parameters.get("NextToken"))
        names = [name for name in names if name > after]
        page = names[: parameters.get("MaxResults", DEFAULT_PAGE)]
        return {
            "DocumentIdentifiers": [
                {
                    "Name": name,
                    "Owner": session_documents.owner(name) or call.account_id,
                    "DocumentVersion": "1",
                    "DocumentType": "Session",
                    "SchemaVersion": "1.0",
                    "DocumentFormat": "JSON",
                    "PlatformTypes": ["Windows", "Linux", "MacOS"],
                    "Tags": [],
                }
                for name in page
            ],
            "NextToken": token(page[-1]) if len(page) < len(names) else None,
        }


def _check_version(parameters: Result) -> None:
    version = parameters.get("DocumentVersion", "$DEFAULT")
    if version not in {"$DEFAULT", "$LATEST", "1"}:
        raise ApiError("InvalidDocumentVersion", f"Document version {version} does not exist.")
