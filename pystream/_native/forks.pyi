class LockFile:
    path: str

    def __init__(self, path: str) -> None: ...
