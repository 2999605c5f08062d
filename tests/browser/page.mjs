// Opens a page in a real browser, in light and dark, wide and narrow, and prints what it finds as JSON.
// usage: node page.mjs PAGE PICTURES

import { pathToFileURL } from "node:url";
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const [file, pictures] = process.argv.slice(2);
const browser = await puppeteer.launch({
  executablePath: await chromium.executablePath(),
  args: chromium.args,
  headless: "shell",
});
try {
  const page = await browser.newPage();
  const requests = [];
  const errors = [];
  page.on("request", (request) => requests.push(request.url()));
  page.on("console", (message) => errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.setViewport({ width: 1280, height: 900 });
  await page.goto(pathToFileURL(file).href);
  const report = { version: await browser.version(), schemes: {} };
  for (const scheme of ["light", "dark"]) {
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    report.schemes[scheme] = await page.evaluate(contrasts);
    if (pictures) await page.screenshot({ path: `${pictures}/${scheme}.png`, fullPage: true });
  }
  report.seen = await page.evaluate(seen);
  const tree = await page.accessibility.snapshot({ interestingOnly: false });
  report.roles = count(tree, {});
  await page.setViewport({ width: 390, height: 800 });
  report.narrow = await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth);
  // The summary opens by the keyboard alone.
  if (await page.$("summary")) {
    await page.focus("summary");
    await page.keyboard.press("Enter");
    report.opened = await page.evaluate(() => document.querySelector("details").open);
  }
  report.requests = requests;
  report.errors = errors;
  console.log(JSON.stringify(report));
} finally {
  await browser.close();
}

function count(node, roles) {
  roles[node.role] = (roles[node.role] ?? 0) + 1;
  for (const child of node.children ?? []) count(child, roles);
  return roles;
}

// What runs in the page.

function seen() {
  const of = (selector, within = document) => [...within.querySelectorAll(selector)];
  const svg = document.querySelector("#timeline");
  const box = svg?.getBoundingClientRect();
  const inside = (mark) => {
    const it = mark.getBoundingClientRect();
    return it.width > 0 && it.left >= box.left && it.right <= box.right && it.top >= box.top && it.bottom <= box.bottom;
  };
  const marks = svg ? of("g.necessary, g.unnecessary, g.unclear, g.missed, g.avoided", svg) : [];
  const labels = svg ? of("text", svg).map((text) => text.getBoundingClientRect()) : [];
  const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return {
    title: document.title,
    language: document.documentElement.lang,
    captionless: of("table").filter((table) => !table.caption).length,
    unscoped: of("th").filter((head) => !head.scope).length,
    policies: of("#policies tbody tr").map((row) => [...row.cells].map((cell) => cell.textContent)),
    days: of("table.days tbody tr").length,
    repairs: of("table.repairs tbody tr").length,
    ragged: of("table").filter((table) => new Set(of("tr", table).map((row) => row.cells.length)).size !== 1).length,
    marks: marks.length,
    outside: marks.filter((mark) => !inside(mark)).length,
    untitled: marks.filter((mark) => !mark.querySelector("title")?.textContent).length,
    overlapping: labels.filter((a, n) => labels.slice(n + 1).some((b) => overlap(a, b))).length,
    scripts: of("script").length,
  };
}

function contrasts() {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\d.]+/g).map(Number).map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  const seenThrough = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\)$/.test(colour) && colour !== "transparent") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const back = getComputedStyle(document.body).backgroundColor;
  const words = [...document.querySelectorAll("h1, h2, p, td, th, caption, li, summary, strong, em")];
  const text = words.map((element) => ratio(getComputedStyle(element).color, seenThrough(element)));
  const labels = [...document.querySelectorAll("svg text")].map((element) => ratio(getComputedStyle(element).fill, back));
  const marks = ["necessary", "unnecessary", "unclear", "missed", "avoided"].map((kind) => {
    const style = getComputedStyle(document.querySelector(`.key g.${kind}`));
    return ratio(style.stroke === "none" ? style.fill : style.stroke, back);
  });
  return { back, text: Math.min(...text, ...labels), marks: Math.min(...marks) };
}
