"""The documents that every account has from AWS, by their names and parameters; what they hold is written by us.

Source of names, parameters and defaults: Systems Manager user guide and command document reference.
"""

from typing import Any

from fleetops.endpoint import session_documents
from fleetops.endpoint.aws_runbooks import RUNBOOKS
from fleetops.endpoint.patch import document as patch_document

_TIMEOUT = {
    "type": "String",
    "default": "3600",
    "description": "(Optional) The time in seconds for a command to complete before it is considered to have failed.",
    "allowedPattern": "([1-9][0-9]{0,4})|(1[0-6][0-9]{4})|(17[0-1][0-9]{3})|(172[0-7][0-9]{2})|(172800)",
}
_DIRECTORY = {
    "type": "String",
    "default": "",
    "description": "(Optional) The path to the working directory on your instance.",
    "maxChars": 4096,
}


def _script(plugin: str, description: str) -> dict[str, Any]:
    return {
        "schemaVersion": "1.2",
        "description": description,
        "parameters": {
            "commands": {
                "type": "StringList",
                "description": "(Required) The commands to run on the instance.",
                "minItems": 1,
                "displayType": "textarea",
            },
            "workingDirectory": _DIRECTORY,
            "executionTimeout": _TIMEOUT,
        },
        "runtimeConfig": {
            plugin: {
                "properties": [
                    {
                        "id": f"0.{plugin}",
                        "runCommand": "{{ commands }}",
                        "workingDirectory": "{{ workingDirectory }}",
                        "timeoutSeconds": "{{ executionTimeout }}",
                    }
                ]
            }
        },
    }


_ON_OFF = {"type": "String", "default": "Enabled", "allowedValues": ["Enabled", "Disabled"]}
_INVENTORY = {
    "applications": _ON_OFF | {"description": "(Optional) Collect data for installed applications."},
    "awsComponents": _ON_OFF | {"description": "(Optional) Collect data for AWS components such as the agent."},
    "networkConfig": _ON_OFF | {"description": "(Optional) Collect data for network configurations."},
    "services": _ON_OFF | {"description": "(Optional, Windows only) Collect data for services."},
    "windowsUpdates": _ON_OFF | {"description": "(Optional, Windows only) Collect data for all Windows updates."},
    "windowsRoles": _ON_OFF | {"description": "(Optional, Windows only) Collect data for Windows roles."},
    "instanceDetailedInformation": _ON_OFF
    | {"description": "(Optional) Collect additional information about the instance: CPU model, cores and so on."},
    "files": {"type": "String", "default": "", "description": "(Optional) Which files to collect data for, as JSON."},
    "windowsRegistry": {
        "type": "String",
        "default": "",
        "description": "(Optional, Windows only) Which registry keys to collect data for, as JSON.",
    },
    "customInventory": _ON_OFF | {"description": "(Optional) Collect data for custom inventory."},
    "billingInfo": _ON_OFF | {"description": "(Optional) Collect billing information of licensed applications."},
}

_COMMANDS: dict[str, dict[str, Any]] = {
    "AWS-RunShellScript": _script("aws:runShellScript", "Run a shell script or specify the commands to run."),
    "AWS-RunPowerShellScript": _script(
        "aws:runPowerShellScript", "Run a PowerShell script or specify the paths to scripts to run."
    ),
    "AWS-ConfigureAWSPackage": {
        "schemaVersion": "2.2",
        "description": "Install or uninstall a Distributor package.",
        "parameters": {
            "action": {
                "type": "String",
                "description": "(Required) Whether to install or uninstall the package.",
                "allowedValues": ["Install", "Uninstall"],
            },
            "installationType": {
                "type": "String",
                "description": "(Optional) The type of installation.",
                "allowedValues": ["Uninstall and reinstall", "In-place update"],
                "default": "Uninstall and reinstall",
            },
            "name": {
                "type": "String",
                "description": "(Required) The package to install or uninstall.",
                "allowedPattern": "^arn:[a-z0-9][-.a-z0-9]{0,62}:[a-z0-9][-.a-z0-9]{0,62}:([a-z0-9][-.a-z0-9]{0,62})?:"
                "([a-z0-9][-.a-z0-9]{0,62})?:package\\/[a-zA-Z][a-zA-Z0-9\\-_]{0,39}$|^[a-zA-Z][a-zA-Z0-9\\-_]{0,39}$",
            },
            "version": {
                "type": "String",
                "description": "(Optional) A version of the package; the latest if none is given.",
                "allowedPattern": "^$|^[0-9A-Za-z.\\-_:+~]{1,128}$",
                "default": "",
            },
            "additionalArguments": {
                "type": "StringMap",
                "description": "(Optional) Additional parameters for the install, uninstall or update scripts.",
                "default": {},
            },
        },
        "mainSteps": [
            {
                "action": "aws:configurePackage",
                "name": "configurePackage",
                "inputs": {
                    "name": "{{ name }}",
                    "action": "{{ action }}",
                    "installationType": "{{ installationType }}",
                    "version": "{{ version }}",
                    "additionalArguments": "{{ additionalArguments }}",
                },
            }
        ],
    },
    "AWS-UpdateSSMAgent": {
        "schemaVersion": "1.2",
        "description": "Update the Amazon SSM Agent to the latest version or a specified version.",
        "parameters": {
            "version": {
                "type": "String",
                "default": "",
                "description": "(Optional) A specific version to install; the latest if none is given.",
                "allowedPattern": "^$|^latest$|^[0-9]{1,5}(\\.[0-9]{1,5}){1,3}$",
            },
            "allowDowngrade": {
                "type": "String",
                "default": "false",
                "description": "(Optional) Allow an older version than the installed one.",
                "allowedValues": ["true", "false"],
            },
        },
        "runtimeConfig": {
            "aws:updateSsmAgent": {
                "properties": [
                    {
                        "agentName": "amazon-ssm-agent",
                        "source": "",
                        "allowDowngrade": "{{ allowDowngrade }}",
                        "targetVersion": "{{ version }}",
                    }
                ]
            }
        },
    },
    "AWS-GatherSoftwareInventory": {
        "schemaVersion": "2.0",
        "description": "Collect software inventory of an instance.",
        "parameters": _INVENTORY,
        "mainSteps": [
            {
                "action": "aws:softwareInventory",
                "name": "collectSoftwareInventoryItems",
                "inputs": {name: f"{{{{ {name} }}}}" for name in _INVENTORY},
            }
        ],
    },
}

# By name: the document's type and content.
AWS_DOCUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ("Command", content) for name, content in _COMMANDS.items()},
    **{name: ("Command", content) for name, content in patch_document.DOCUMENTS.items()},
    **{name: ("Automation", content) for name, content in RUNBOOKS.items()},
    **{
        name: ("Session", content)
        for name, content in session_documents.DOCUMENTS.items()
        if name != session_documents.DEFAULT_DOCUMENT
    },
}
