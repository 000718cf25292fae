"""What is wrong with the settings."""


class SettingsError(Exception):
    """Settings cannot be used; a line for each, which names it, where it was set, and what is allowed."""

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences
