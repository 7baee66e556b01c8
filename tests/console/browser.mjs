// What the console is like in a browser: Chromium, driven by Playwright. The Rust tests start this with a scenario and tell where the
// console is; it prints a line for each thing that it has seen, and ends with 1 if anything is not as it must be.
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";
import { delimiter } from "node:path";

const roots = (process.env.NODE_PATH ?? "").split(delimiter).filter(Boolean);
const load = (name) => {
  for (const root of roots) {
    try {
      return createRequire(`${root}/`)(`${root}/${name}`);
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") throw error;
    }
  }
  throw new Error(`${name} is missing: scripts/libraries installs it`);
};
const { chromium } = load("playwright-core");
const axe = load("axe-core");

const base = process.env.CONSOLE_URL;
const pages = JSON.parse(process.env.CONSOLE_PAGES ?? "[]");
const credentials = process.env.CONSOLE_USER ? { username: process.env.CONSOLE_USER, password: process.env.CONSOLE_PASSWORD } : undefined;
const failures = [];
const must = (is, what) => {
  if (!is) failures.push(what);
  console.log(`${is ? "ok  " : "FAIL"} ${what}`);
};

// Each page tells of what its policy has kept out.
const watch = () => {
  window.kept = [];
  document.addEventListener("securitypolicyviolation", (event) => window.kept.push(`${event.violatedDirective} ${event.blockedURI}`));
};

const open = async (browser, options = {}) => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: "en-GB", timezoneId: "Asia/Shanghai", httpCredentials: credentials, ...options });
  if (options.javaScriptEnabled !== false) await context.addInitScript(watch);
  context.setDefaultTimeout(15_000);
  return context;
};

const scenarios = {
  // Every page in both themes, wide and narrow: nothing kept out, nothing that a screen reader stumbles over, nothing cut off.
  async look(browser) {
    for (const [colorScheme, width, locale] of [["light", 1280, "en-GB"], ["dark", 360, "zh-CN"], ["dark", 1280, "en-GB"], ["light", 360, "zh-CN"]]) {
      const context = await open(browser, { colorScheme, locale, viewport: { width, height: 800 } });
      const page = await context.newPage();
      const errors = [];
      page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
      page.on("pageerror", (error) => errors.push(error.message));
      for (const path of pages) {
        const name = `${path} ${colorScheme} ${width}`;
        await page.goto(base + path);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        const kept = await page.evaluate(() => window.kept);
        await page.evaluate(axe.source);
        const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
        const found = violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join(", ")}`);
        must(kept.length === 0 && wide <= width && found.length === 0, `${name}${kept.length ? ` policy: ${kept}` : ""}${wide > width ? ` is ${wide} wide` : ""}${found.length ? ` axe: ${found.join("; ")}` : ""}`);
      }
      const told = errors.filter((text) => !/401|404/.test(text));
      must(told.length === 0, `no error in the browser's console, ${colorScheme} ${width} ${told}`);
      await context.close();
    }
  },

  // Without JavaScript: search, read, close an order, requeue a group.
  async plain(browser) {
    const context = await open(browser, { javaScriptEnabled: false });
    const page = await context.newPage();
    await page.goto(`${base}/console`);
    await page.getByRole("link", { name: "Orders", exact: true }).click();
    await page.getByLabel(/Order ID/).fill(process.env.CONSOLE_ORDER);
    await page.getByRole("button", { name: "Find" }).click();
    must(page.url().endsWith(`/console/orders/${process.env.CONSOLE_ORDER}`), `the search leads to the story: ${page.url()}`);
    await page.getByLabel("Reason").fill("the customer called");
    await page.getByRole("button", { name: "Close now" }).click();
    must(await page.getByText("order.close").first().isVisible(), "the close is told of");
    for (let tries = 0; tries < 50 && !(await page.locator(".facts .tag", { hasText: "closed" }).count()); tries++) await page.reload();
    must((await page.locator(".facts .tag", { hasText: "closed" }).count()) === 1, "the order is closed");
    must(await page.getByRole("button", { name: "Close now" }).isDisabled(), "it cannot be closed twice");
    await page.getByRole("link", { name: "Parked messages" }).click();
    const row = page.locator("tr", { hasText: "not_json" });
    await row.getByRole("link", { name: "Drop" }).click();
    must(await page.getByText(/Messages that are dropped/).isVisible(), "it asks before it drops");
    await page.getByRole("button", { name: "Yes, drop them" }).click();
    must(await page.getByText(/were dropped/).isVisible(), "the drop is told of");
    await page.getByRole("button", { name: "Undo" }).click();
    must(await page.getByText(/were parked again/).isVisible(), "the drop is undone");
    await page.getByRole("link", { name: "中文" }).click();
    must((await page.locator("h1").textContent()) === "搁置消息", "the page speaks Chinese");
    await context.close();
  },

  // The page renews itself, but not while it is hidden, nor while somebody is about to press something in it.
  async renew(browser) {
    const context = await open(browser);
    const page = await context.newPage();
    let renewals = 0;
    page.on("request", (request) => (renewals += request.headers()["hx-request"] ? 1 : 0));
    await page.goto(`${base}/console/parked`);
    await page.locator("tr", { hasText: "delivery_limit" }).waitFor();
    const other = await context.newPage();
    await other.goto(`${base}/console/parked`);
    await other.locator("tr", { hasText: "delivery_limit" }).getByRole("link", { name: "Drop" }).click();
    await other.getByRole("button", { name: "Yes, drop them" }).click();
    await page.bringToFront();
    await page.locator("tr", { hasText: "delivery_limit" }).waitFor({ state: "detached" });
    must(renewals > 0, "what was dropped elsewhere goes away by itself");
    const time = page.locator(".asof time");
    must(/UTC/.test(await time.textContent()) && /GMT\+8/.test((await time.getAttribute("data-local")) ?? (await page.locator("#live time").first().getAttribute("data-local"))), "times are told in UTC and in the reader's zone");
    await page.evaluate(() => Object.defineProperty(document, "hidden", { value: true, configurable: true }));
    await page.waitForTimeout(2_500);
    const before = renewals;
    await page.waitForTimeout(4_500);
    must(renewals === before, `a hidden page asks for nothing (${renewals - before})`);
    await page.evaluate(() => {
      Object.defineProperty(document, "hidden", { value: false, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    });
    await page.waitForRequest((request) => request.headers()["hx-request"] === "true");
    must(true, "once it is seen again, it is renewed");
    await page.goto(`${base}/console?every=0`);
    must((await page.locator("[hx-trigger]").count()) === 0, "it can be told to stay as it is");
    await page.keyboard.press("Tab");
    must((await page.evaluate(() => document.activeElement.className)) === "skip", "the first key leads past the menu");
    await page.keyboard.press("Enter");
    must((await page.evaluate(() => document.activeElement.id)) === "main", "to the content");
    await page.goto(`${base}/console`);
    await page.locator("#chart canvas").waitFor();
    must((await page.evaluate(() => window.kept)).length === 0, "the chart is drawn within the policy");
    await context.close();
  },

  // Somebody who may look sees what may be pressed, and why not.
  async looker(browser) {
    const context = await open(browser);
    const page = await context.newPage();
    await page.goto(`${base}/console/orders/${process.env.CONSOLE_ORDER}`);
    const close = page.getByRole("button", { name: "Close now" });
    must((await close.isVisible()) && (await close.isDisabled()), "what may not be pressed is there, and disabled");
    must(await page.getByText("You may look. Somebody with the role").first().isVisible(), "and says why");
    await context.close();
  },

  // The server goes away, and comes back.
  async away(browser) {
    const context = await open(browser);
    const page = await context.newPage();
    await page.goto(`${base}/console`);
    await page.locator(".verdict").waitFor();
    const offline = page.locator("#offline");
    must(!(await offline.isVisible()), "all answers");
    await context.route("**/console*", (route) => route.abort());
    await offline.waitFor({ state: "visible" });
    must(true, "a page whose server is gone says that it is old");
    must(await page.locator(".verdict").isVisible(), "and what it knew stays");
    await context.unroute("**/console*");
    await offline.waitFor({ state: "hidden" });
    await context.route("**/console*", (route) => route.fulfill({ status: 502, contentType: "text/html", body: "<html><body>Bad gateway</body></html>" }));
    await offline.waitFor({ state: "visible" });
    must(await page.locator(".verdict").isVisible(), "a proxy's word does not take its place");
    await context.unroute("**/console*");
    await offline.waitFor({ state: "hidden" });
    must(true, "and that it is not, once it is back");
    await context.close();
  },

  // Sixty tabs of one browser: each is there, and renews itself.
  async tabs(browser) {
    const context = await open(browser);
    let renewals = 0;
    context.on("request", (request) => (renewals += request.headers()["hx-request"] ? 1 : 0));
    const tabs = [];
    for (let count = 0; count < 60; count++) {
      const page = await context.newPage();
      await page.goto(`${base}/console`);
      tabs.push(page);
    }
    const before = renewals;
    await tabs[0].waitForTimeout(10_000);
    let shown = 0;
    for (const page of tabs) shown += await page.locator(".verdict").count();
    must(shown === 60, `sixty tabs are there (${shown})`);
    must(renewals - before > 60, `and renew themselves (${renewals - before} times in ten seconds)`);
    await context.close();
  },

  // Pictures for the documents; narrow ones for whoever wants to look at them.
  async pictures(browser) {
    for (const colorScheme of ["light", "dark"]) {
      for (const [width, height] of [[1280, 800], [360, 740]]) {
        const folder = width === 360 ? process.env.CONSOLE_PICTURES_NARROW : process.env.CONSOLE_PICTURES;
        mkdirSync(folder, { recursive: true });
        const context = await open(browser, { colorScheme, viewport: { width, height } });
        const page = await context.newPage();
        for (const [name, path] of Object.entries(JSON.parse(process.env.CONSOLE_SHOTS))) {
          await page.goto(`${base}${path}${path.includes("?") ? "&" : "?"}every=0`);
          await page.locator("h1").waitFor();
          await page.evaluate(() => document.fonts.ready);
          await page.screenshot({ path: `${folder}/${name}-${colorScheme}.png` });
        }
        await context.close();
      }
    }
    must(true, "the pictures are made");
  },
};

const browser = await chromium.launch({ executablePath: process.env.OVERDUE_TEST_CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
try {
  for (const name of process.argv.slice(2)) {
    console.log(`-- ${name}`);
    await scenarios[name](browser);
  }
} finally {
  await browser.close();
}
if (failures.length > 0) {
  console.log(`${failures.length} failed:\n${failures.join("\n")}`);
  process.exit(1);
}
