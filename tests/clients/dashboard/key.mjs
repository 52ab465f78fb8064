// The dashboard of a service that requires API keys: it asks for one, keeps it in its tab, and forgets it.
import { openPage, shoot } from "./browser.mjs";
import { command, startService } from "./services.mjs";

export async function testKey(test, browser, folder) {
  const bootstrap = await command(["keys", "generate"], {}, folder);
  const env = { DATABASE_URL: "sqlite://keys.db?mode=rwc", USERS_API__AUTH__MODE: "required", USERS_API__AUTH__BOOTSTRAP_KEY: bootstrap };
  const { url } = await startService("serve", env, folder);
  const key = await command(["keys", "create", "--name", "dashboard", "--scope", "ops:read"], env, folder);
  const other = await command(["keys", "create", "--name", "reader", "--scope", "users:read"], env, folder);
  // The service reads the keys of other processes every few seconds.
  const status = async (value) => (await fetch(`${url}/pool`, { headers: { Authorization: `Bearer ${value}` } })).status;
  await test.need("the service does not accept a new key", async () => (await status(key)) === 200 && (await status(other)) === 403);

  const page = await openPage(browser, test, `${url}/dashboard`, {
    // The browser reports refused requests in its console too.
    intended: [/\b(401|403)\b.*\/pool\/live|\/pool\/live.*\b(401|403)\b/],
    secrets: [key, other, "wrong-key"],
  });
  const form = page.locator("#key-form");
  const input = page.locator("#key");
  const problem = page.locator("#key-problem");
  const title = page.locator("#key-title");
  const use = async (value) => {
    await input.fill(value);
    await input.press("Enter");
  };

  await form.waitFor();
  test.check(/key/i.test(await problem.innerText()), `without a key, the page explains "${await problem.innerText()}"`);
  test.check(await input.evaluate((node) => node === document.activeElement), "the focus is not on the input of the key");
  test.check(await page.locator("#connections-title").isHidden(), "the parts of the picture are shown without a key");
  await test.eventually("the state is not shown as missing a key", async () => (await page.locator("#stream-state").innerText()) === "key required");
  await shoot(page, "key-required");

  const first = await problem.innerText();
  await use("wrong-key");
  await test.eventually(async () => `a wrong key: the page explains "${await problem.innerText()}"`, async () => {
    const text = await problem.innerText();
    return text !== first && text.length > 10 && (await form.isVisible());
  });
  await shoot(page, "key-wrong");
  await use(other);
  await test.eventually(async () => `a key without the scope: the title is "${await title.innerText()}"`, async () => /ops:read/.test(await title.innerText()) && (await form.isVisible()));

  const state = () => page.locator("#health").getAttribute("data-state");
  const works = async () => (await form.isHidden()) && (await state()) === "up" && (await page.locator("#cells .cell").count()) > 0;
  await use(key);
  await test.need("a key with the scope ops:read does not show the picture", works);
  await shoot(page, "key-accepted");
  test.check((await input.inputValue()) === "", "the key stays in the form");
  test.check(!(await page.content()).includes(key), "the key is in the document");
  test.check(!page.url().includes(key), "the key is in the URL of the page");
  const stored = () => page.evaluate(() => ({ tab: Object.values({ ...sessionStorage }), kept: [...Object.values({ ...localStorage }), document.cookie] }));
  test.check((await stored()).tab.includes(key) && !(await stored()).kept.join().includes(key), "the key is not kept in the tab only");
  await page.reload();
  await test.eventually("the key does not survive a reload", works);

  const forget = page.getByRole("button", { name: "Forget key" });
  await forget.click();
  await test.eventually("Forget key: the page does not ask for a key", () => form.isVisible());
  test.check((await stored()).tab.length === 0, "Forget key: the tab still has it");
  await test.eventually("Forget key: the button stays", () => forget.isHidden());
  await page.reload();
  await test.eventually("Forget key: the key is back after a reload", () => form.isVisible());
  test.check(await forget.isHidden(), "without a key there is a button to forget it");
  await page.close();
}
