// The pages with axe-core, the explanations with the keyboard, and the links of the explanations.
import { audit, live, openPage, shoot } from "./browser.mjs";
import { demoOf } from "./lab.mjs";
import { startService } from "./services.mjs";

const tip = (page) => page.locator("#term-tip");

/** Goes through the page with the Tab key: each term explains itself, and Escape closes the explanation. */
async function explanations(test, page, what) {
  const terms = await page.locator("main .term, header .term").evaluateAll((all) => all.filter((node) => node.checkVisibility()).length);
  test.check(terms > 40, `${what}: only ${terms} terms are explained`);
  await page.locator("body").press("Home");
  await page.evaluate(() => document.activeElement.blur());
  const visited = new Set();
  // The end of the page leads back to its start.
  for (let presses = 0; visited.size < terms && presses < 400; presses++) {
    await page.keyboard.press("Tab");
    const name = await page.evaluate(() => {
      const node = document.activeElement;
      if (!node.matches(".term")) return null;
      node.dataset.position ??= String(document.querySelectorAll("[data-position]").length + 1);
      return { term: node.dataset.term, position: node.dataset.position };
    });
    if (!name || visited.has(name.position)) continue;
    visited.add(name.position);
    const text = (await tip(page).isVisible()) ? await tip(page).innerText() : "";
    test.check(text.length > 30, `${what}: ${name.term} is explained as "${text}"`);
    const described = await page.evaluate(() => document.activeElement.getAttribute("aria-describedby") === "term-tip");
    test.check(described, `${what}: the explanation of ${name.term} does not describe it`);
    await page.keyboard.press("Escape");
    test.check(await tip(page).isHidden(), `${what}: Escape does not close the explanation of ${name.term}`);
    test.check(await page.evaluate(() => document.activeElement.matches(".term")), `${what}: Escape moves the focus away from ${name.term}`);
  }
  test.check(visited.size === terms, `${what}: the Tab key leads to ${visited.size} of ${terms} terms`);
}

/** Opens the explanation of a term. */
async function explain(page, name) {
  await page.locator(`.term[data-term="${name}"]`).first().focus();
  await tip(page).waitFor();
}

async function links(test, page, url) {
  const targets = await page.evaluate(async () => {
    const { GLOSSARY } = await import("./assets/glossary.js");
    return [...new Set(Object.values(GLOSSARY).map(([, , link]) => link))];
  });
  const documents = new Map();
  for (const target of targets) {
    const [file, anchor] = target.split("#");
    if (!documents.has(file)) documents.set(file, await (await fetch(`${url}/${file}`)).text());
    test.check(!anchor || documents.get(file).includes(`id="${anchor}"`), `an explanation leads to ${target}, which does not exist`);
  }
  test.check(targets.length > 5, `the explanations have ${targets.length} links`);
}

async function plain(test, browser, url) {
  const home = await openPage(browser, test, `${url}/`);
  await test.eventually("the home page does not show that the service is ready", async () => (await home.locator("#ready").innerText()) === "The service is ready.");
  test.check((await home.locator('a[href="dashboard"]').count()) === 1, "the home page has no link to the dashboard");
  await audit(test, home, "the home page");
  await shoot(home, "home");
  await home.close();

  const documentation = await openPage(browser, test, `${url}/docs/POOL.md`);
  await audit(test, documentation, "the documentation");
  await shoot(documentation, "documentation");
  await documentation.close();
}

export async function testAccessibility(test, browser, folder) {
  const env = { DATABASE_URL: "sqlite://accessibility.db?mode=rwc", USERS_API__AUTH__MODE: "off" };
  const { url } = await startService("serve", env, folder);
  await plain(test, browser, url);
  const page = await openPage(browser, test, `${url}/dashboard`);
  await live(page);
  await links(test, page, url);
  await audit(test, page, "the dashboard");
  await explain(page, "queue");
  await audit(test, page, "the dashboard with an explanation");
  await shoot(page, "explanation");
  await page.keyboard.press("Escape");
  await explanations(test, page, "the dashboard");
  await page.close();
}

export async function testDemoAccessibility(test, browser) {
  const { url } = await startService("demo", {});
  // Some load is enough for the picture, and leaves the machine to the other tests.
  await demoOf(url).patch({ clients: 2 });
  const page = await openPage(browser, test, `${url}/dashboard`);
  await live(page);
  await page.locator("#lab-max:enabled").waitFor();
  await audit(test, page, "the demo");
  await explain(page, "connections");
  await audit(test, page, "the demo with an explanation");
  await page.keyboard.press("Escape");
  await explanations(test, page, "the demo");
  await page.getByRole("button", { name: "Start the guided tour" }).click();
  await page.locator(".lab-tour").waitFor();
  await audit(test, page, "the demo with the tour");
  await page.close();
}
