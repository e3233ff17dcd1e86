"""A real headless Chromium for tests, driven by the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 60.0  # to wait for an answer, on a slow machine


class Browser:
    """A page in Chromium: what a person does with it, and what they see."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._receive, 2**20)
            assert chunk, "Chromium has ended"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def open(self, address: str, *, width: int = 1280, dark: bool = False) -> None:
        """Open a page in a window of this width, and wait until it is loaded."""
        self.resize(width, 900)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media="", features=[scheme])
        self._ask("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def as_printed(self) -> None:
        """Show the page as on paper."""
        self._ask("Emulation.setEmulatedMedia", media="print", features=[])

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def run(self, script: str) -> Any:
        """Return the value of an expression, which the page's security policy does not refuse."""
        answer = self._ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def place(self, element: str) -> tuple[float, float]:
        """Scroll to an element, given as an expression; return its centre in the window."""
        x, y = self.run(
            f"(() => {{ const one = {element}; one.scrollIntoView({{ block: 'center' }}); "
            "const box = one.getBoundingClientRect(); "
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        return x, y

    def hover(self, element: str) -> None:
        """Move the mouse over an element."""
        x, y = self.place(element)
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, element: str) -> None:
        """Click an element."""
        x, y = self.place(element)
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key that writes nothing."""
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def choose(self, element: str, value: str) -> None:
        """Choose an option of a select element."""
        self.run(
            f"(() => {{ const one = {element}; one.value = {json.dumps(value)}; "
            "one.dispatchEvent(new Event('change', { bubbles: true })); })()"
        )

    def script(self, on: bool) -> None:
        """Let pages run scripts, or not."""
        self._ask("Emulation.setScriptExecutionDisabled", value=not on)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write the page as a PNG file, or the part of it that the window shows."""
        answer = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def printed(self) -> bytes:
        """Return the page as it is printed, a PDF file."""
        return base64.b64decode(self._ask("Page.printToPDF")["data"])

    def complaints(self) -> list[str]:
        """Return the errors, refusals and requests of the network since the last call."""
        self.run("0")  # events that have happened are sent before the answer
        texts = []
        for event in self.events:
            params = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                texts.append(json.dumps(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                texts.append(params["entry"]["text"])
            elif event["method"] == "Network.requestWillBeSent":
                address = params["request"]["url"]
                if not address.startswith(("file:", "data:", "http://localhost:")):
                    texts.append(f"request: {address}")
        self.events.clear()
        return texts


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start Chromium with its files in a folder; end it afterwards."""
    ends = [*os.pipe(), *os.pipe()]
    # away from 3 and 4, where --remote-debugging-pipe reads and writes
    to_browser, send, receive, from_browser = (fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in ends)
    for one in ends:
        os.close(one)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={folder}",
               "about:blank"]  # fmt: skip
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", *command],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Browser(send, receive)
    finally:
        process.kill()
        process.wait()
        os.close(send)
        os.close(receive)
