"""What is wrong with a document, or with the parameters that somebody gave for it."""


class InvalidDocument(Exception):
    """The content is no document of its type; `path` says where, as "mainSteps[1].inputs.runCommand"."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path


class InvalidParameters(Exception):
    """The document does not take these parameters; the text names each and says why."""
