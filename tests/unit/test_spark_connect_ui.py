"""What a web UI that tells nothing is said to be."""

from typing import Any

import httpx
import msgspec
import pytest

from adapters.narrative.spark_connect_names import Identity
from adapters.narrative.spark_connect_ui import unheard

HERE = Identity("local-1764367000000", "countermand")
OTHERS = "http://s:4041/"
ASKED = httpx.Request("GET", f"{OTHERS}api/v1/applications/{HERE.application}/jobs")


def refused(code: int, **reason: Any) -> httpx.HTTPStatusError:
    """What httpx makes of such an answer."""
    return httpx.HTTPStatusError("of no use to anybody", request=ASKED, response=httpx.Response(code, **reason))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refused(404, text=f"no such app: {HERE.application}"), "answered 404: Not Found"),
        (refused(302), "answered 302: Found"),
        (refused(468), "answered 468"),
        (msgspec.DecodeError("JSON is malformed: invalid character (byte 0)"), "answered something else than Spark's"),
        (httpx.ConnectError("All connection attempts failed"), "cannot be reached: All connection attempts failed"),
        (httpx.RemoteProtocolError("illegal request line"), "cannot be reached: illegal request line"),
        (httpx.ReadError(""), "cannot be reached: ReadError"),
    ],
)
def test_where_another_server_answers_the_setting_is_named_and_where_the_right_one_is(
    error: httpx.HTTPError | msgspec.DecodeError, said: str
) -> None:
    detail = unheard(OTHERS, HERE.application, error)

    assert detail.startswith(f"the web UI at http://s:4041 {said}")
    assert "ui_url in [spark] has to be where the log of the Connect server" in detail
    assert HERE.application in detail
    assert "\n" not in detail


@pytest.mark.parametrize(
    ("error", "said"), [(refused(503), "answered 503: Service Unavailable"), (httpx.ReadTimeout(""), "did not answer")]
)
def test_a_web_ui_that_is_only_busy_is_not_said_to_be_the_wrong_one(error: httpx.HTTPError, said: str) -> None:
    detail = unheard(OTHERS, HERE.application, error)

    assert said in detail
    assert "ui_url" not in detail
