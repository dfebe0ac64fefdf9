from typing import Any

from pystream._native.producer import ProducerCore

class SendingCore(ProducerCore):
    def send_many(
        self,
        values: Any,
        *,
        keys: Any = None,
        headers: Any = None,
        timestamps: Any = None,
        partition: int | None = None,
    ) -> None: ...
