"""How a step ends otherwise than well."""

# What AWS says of every step that fails [user guide, "Troubleshooting Systems Manager Automation"].
_EXECUTE = "Step fails when it is Execute/Cancelling action. "
_REFER = ". Please refer to Automation Service Troubleshooting Guide for more diagnosis details."

LOST = "ServerError"  # the kind of a failure where no answer came


class StepFailed(Exception):
    """The step has failed; the text says why. `is_final`: to try it again would be wrong, whatever maxAttempts says."""

    def __init__(
        self, message: str, *, stage: str = "Invocation", kind: str = "ExecutionFailed", is_final: bool = False
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.kind = kind
        self.is_final = is_final

    @property
    def message(self) -> str:
        """The failure message as AWS words it."""
        begin = "" if str(self).startswith("Step fails when") else _EXECUTE
        return f"{begin}{self}{_REFER}"

    @property
    def details(self) -> dict[str, object]:
        return {
            "FailureStage": self.stage,
            "FailureType": self.kind,
            "Details": {"VerificationErrorMessage": [str(self)[:1000]]},
        }


class StepTimedOut(StepFailed):
    """It has not ended within its timeoutSeconds."""

    def __init__(self, message: str = "Step timed out while it was executed") -> None:
        super().__init__(message, kind="TimedOut")


class StepCancelled(Exception):
    """Somebody has stopped the automation, or the step."""
