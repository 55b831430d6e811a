"""A person in front of Airflow's UI, in Debian's chromium: what they open and press, and what their browser did.

Every request is looked at: one that would leave the site is stopped and noted in `elsewhere`, a dialog that a script
opens in `ran`. Gesso's pages come over the network as they are; what Airflow's own UI loads comes through Playwright,
since chromium gives up on its connections whenever an interface of this machine comes or goes, as they do beside
containers.
"""

import contextlib
import shutil
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from playwright.sync_api import Browser, Error, FrameLocator, Locator, Page, Response, Route, expect, sync_playwright

#: How long a page may take on a busy machine, in milliseconds: it ends a test that would hang, and measures nothing.
PATIENCE = 60_000

CHROMIUM = shutil.which("chromium")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        expect.set_options(timeout=PATIENCE)
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody at a browser.

    Args:
        browser: the chromium.
        site: Airflow's address.
        options: of the browser context: viewport, color_scheme, …

    Attributes:
        page: the page that they look at.
        elsewhere: addresses outside the site that a page asked for.
        ran: what a script said in a dialog.
    """

    def __init__(self, browser: Browser, site: str, **options: object) -> None:
        self.site, self.elsewhere, self.ran = site, list[str](), list[str]()
        options = {"viewport": {"width": 1280, "height": 900}} | options
        self.context = browser.new_context(base_url=site, **options)  # type: ignore[arg-type]
        self.context.set_default_timeout(PATIENCE)
        self.context.route("**/*", self._look)
        self.page: Page = self.context.new_page()
        self.page.on("dialog", lambda dialog: (self.ran.append(dialog.message), dialog.dismiss()))

    def _look(self, route: Route) -> None:
        asked = urlsplit(route.request.url)
        if f"{asked.scheme}://{asked.netloc}" != self.site:
            self.elsewhere.append(route.request.url)
            route.abort()
        elif asked.path.startswith("/gesso/"):
            route.continue_()
        else:
            with contextlib.suppress(Error):  # the page may be gone by now
                route.fulfill(response=route.fetch(max_redirects=0, timeout=PATIENCE))

    def log_in(self, name: str, password: str) -> "Person":
        self.open("/")
        self.page.fill("input[name=username]", name)
        self.page.fill("input[name=password]", password)
        self.page.click("button[type=submit]")
        expect(self.page.get_by_role("link", name="Dags", exact=True)).to_be_visible()
        return self

    def open(self, path: str) -> Response:
        """Go to a page of the site; its answer."""
        for _ in range(5):
            try:
                answer = self.page.goto(path)
            except Error as error:
                if "ERR_NETWORK_CHANGED" not in error.message:
                    raise
            else:
                assert answer is not None
                return answer
        raise AssertionError(f"{path}: the network keeps changing.")

    def open_tab(self, name: str, run_id: str = "", ready: str = "h1") -> FrameLocator:
        """Open a tab of Gesso's on a run's page, or on the DAG's; what is in it.

        Args:
            name: the tab's.
            run_id: the run; none: a tab of the DAG.
            ready: what is there once the tab's content is.
        """
        run = f"/runs/{quote(run_id, safe=':+')}" if run_id else ""
        frame = self.page.frame_locator(f"iframe[title={name}]")
        for attempt in range(3):
            self.open(f"/dags/retrain{run}/plugin/{name.lower()}")
            with contextlib.suppress(AssertionError):
                expect(frame.locator(ready).first).to_be_visible(timeout=PATIENCE / (3 - attempt))
                return frame
        raise AssertionError(f"The tab {name} did not show {ready}.")

    def open_form(self) -> "TriggerForm":
        """Press Trigger on the DAG's page."""
        self.open("/dags/retrain")
        self.page.get_by_role("button", name="Trigger Dag").click()
        return TriggerForm(self.page)


class TriggerForm:
    """Airflow's dialog for a new run."""

    def __init__(self, page: Page) -> None:
        self.page, self.dialog = page, page.get_by_role("dialog")
        expect(self.section("Data")).to_be_visible()

    def section(self, name: str) -> Locator:
        """The button that opens a section."""
        return self.dialog.get_by_role("button", name=name, exact=True)

    def show(self, section: str) -> "TriggerForm":
        if self.section(section).get_attribute("aria-expanded") != "true":
            self.section(section).click()
        expect(self.section(section)).to_have_attribute("aria-expanded", "true")
        self.page.wait_for_timeout(300)  # it slides open
        return self

    def field(self, param: str) -> Locator:
        return self.dialog.locator(f"[name=element_{param}]")

    def write(self, param: str, value: str) -> None:
        """Type into a field, and leave it."""
        self.field(param).fill(value)
        self.field(param).blur()

    def choose(self, param: str, option: str) -> None:
        """Choose what a field offers by this name."""
        self.dialog.locator(f"#element_{param}").click()
        self.page.get_by_role("option", name=option).click()

    def help_of(self, title: str) -> Locator:
        """The text below the field with this title."""
        return self.dialog.get_by_role("group").filter(has_text=title)

    def send(self) -> tuple[int, dict[str, object]]:
        """Press Trigger; status and content of the answer."""
        with self.page.expect_response(
            lambda answer: answer.request.method == "POST" and answer.url.endswith("/dagRuns")
        ) as sent:
            self.dialog.get_by_role("button", name="Trigger", exact=True).click()
        return sent.value.status, sent.value.json()
