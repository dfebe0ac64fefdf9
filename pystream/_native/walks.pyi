class FileWalk:
    def __init__(
        self,
        path: str,
        base_offset: int,
        end_offset: int | None = None,
        salt: int | None = None,
        bodies: bool = True,
    ) -> None: ...
    def close(self) -> None: ...
