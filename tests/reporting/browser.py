"""A headless Chromium on a wire: opens a page, runs JavaScript in it, hears its errors and requests."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

from tornado.websocket import websocket_connect

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
_FLAGS = (
    "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-port=0"
)


class Browser:
    """One page in a browser of its own; `async with Browser(folder) as browser`.

    Args:
        folder: an empty one, for the browser's profile.

    Attributes:
        errors: what the console said against the page: exceptions, errors, warnings.
        requests: the addresses that were asked for.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.errors, self.requests = [], []
        self._count, self._answers = 0, {}

    async def __aenter__(self):
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [PROGRAM, *_FLAGS.split(), *root, f"--user-data-dir={self.folder}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **quiet)
        try:
            port, path = await self._address()
            self._socket = await websocket_connect(
                f"ws://127.0.0.1:{port}{path}", max_message_size=2**28
            )
            self._reader = asyncio.create_task(self._read())
            [target] = [
                target
                for target in (await self._send("Target.getTargets"))["targetInfos"]
                if target["type"] == "page"
            ]
            attached = await self._send(
                "Target.attachToTarget", targetId=target["targetId"], flatten=True
            )
            self._session = {"sessionId": attached["sessionId"]}
            for domain in ("Page", "Runtime", "Log", "Network"):
                await self.send(f"{domain}.enable")
        except BaseException:
            self._process.kill()
            raise
        return self

    async def __aexit__(self, *error):
        self._reader.cancel()
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)

    async def open(self, file, width=1400, height=900, dark=False):
        """Opens a file and waits until it is loaded."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.send("Emulation.setEmulatedMedia", features=scheme)
        await self.send("Page.navigate", url=Path(file).resolve().as_uri())
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def run(self, script):
        """The value of a JavaScript expression."""
        answer = await self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, script, seconds=120):
        """Waits until an expression is true."""
        for _ in range(20 * seconds):
            if await self.run(script):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {script}; errors: {self.errors}")

    async def screenshot(self, file):
        """The whole page as a PNG."""
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        Path(file).write_bytes(base64.b64decode(shot["data"]))

    async def send(self, method, **parameters):
        """Sends a command of the DevTools protocol to the page, and returns its result."""
        return await self._send(method, self._session, **parameters)

    async def _send(self, method, session=None, **parameters):
        self._count += 1
        answer = self._answers[self._count] = asyncio.get_running_loop().create_future()
        message = {"id": self._count, "method": method, "params": parameters, **(session or {})}
        await self._socket.write_message(json.dumps(message))
        return await asyncio.wait_for(answer, 120)

    async def _address(self):
        file = self.folder / "DevToolsActivePort"
        for _ in range(2400):
            if file.exists() and len(lines := file.read_text().split()) == 2:
                return lines
            await asyncio.sleep(0.05)
        raise AssertionError("the browser did not start")

    async def _read(self):
        while (text := await self._socket.read_message()) is not None:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if "error" in message:
                    answer.set_exception(AssertionError(message["error"]))
                else:
                    answer.set_result(message["result"])
            else:
                self._hear(message["method"], message["params"])

    def _hear(self, method, event):
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.errors.append(str([a.get("value", a.get("description")) for a in event["args"]]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
