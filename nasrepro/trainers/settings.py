"""What the settings of all trainers are held to."""


def require_counts(settings: object, *names: str) -> None:
    """Raise ValueError where one of these settings is below 1; None, which means all there is, passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
