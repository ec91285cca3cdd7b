"""What a page must be for whoever can't see it, or can't see it well: expressions for a browser's tab.

The rules are those of axe-core that have to do with pages like these, each by its name there. axe-core itself, which
knows more of them, is a script that a package of PyPI's brings along.
"""

from importlib.resources import files

from tests.browser import Tab
from tests.tools import missing

# A text for each violation of a rule by an element.
_RUN = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.flatMap(
    rule => rule.nodes.map(node => rule.id + ": " + node.html.slice(0, 120) + " " + node.failureSummary)))"""


def violations(tab: Tab) -> list[str]:
    """By axe-core, of the page that is open. Skips the test where that isn't installed."""
    try:
        script = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    except ModuleNotFoundError:
        missing("axe-core-python")
    tab.run(f"{script};true")
    found: list[str] = tab.run(_RUN)
    return found


# What the eye tells apart needs so much contrast (WCAG 2.2, AA, of text).
LEAST_CONTRAST = 4.5
CONTRAST = """(() => {
    const light = text => {
        const parts = text.match(/[\\d.]+/g).slice(0, 3).map(Number).map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const behind = element => {
        for (; element; element = element.parentElement) {
            const color = getComputedStyle(element).backgroundColor;
            if (!color.endsWith(", 0)")) return color;
        }
        return "rgb(255, 255, 255)";
    };
    const found = {};
    for (const element of document.querySelectorAll("body *")) {
        if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
        const both = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
        const name = element.tagName + "." + element.className;
        found[name] = Math.min(found[name] || 99, (both[0] + 0.05) / (both[1] + 0.05));
    }
    return found;
})()"""
# A text for each violation, with the rule's name and the beginning of the element.
RULES = """(() => {
    const found = [], all = selector => [...document.querySelectorAll(selector)];
    const must = (rule, elements) =>
        elements.forEach(each => found.push(rule + ": " + (each.outerHTML || each).slice(0, 120)));
    const said = each => (each.innerText || each.textContent).trim();
    if (!/^[a-z]{2}/.test(document.documentElement.lang)) found.push("html-has-lang");
    if (!document.title.trim()) found.push("document-title");
    if (all("main").length !== 1) found.push("landmark-one-main");
    if (all("h1").length !== 1) found.push("page-has-heading-one");
    const levels = all("h1, h2, h3, h4, h5, h6").map(each => Number(each.nodeName[1]));
    if (levels.some((level, place) => level > (levels[place - 1] || 0) + 1)) found.push("heading-order");
    must("empty-heading", all("h1, h2, h3, h4, h5, h6").filter(each => !said(each)));
    must("th-has-data-cells", all("table").filter(each => !each.querySelector("th") || !each.querySelector("td")));
    must("scope-attr-valid", all("th").filter(each => !["col", "row", "colgroup", "rowgroup"].includes(each.scope)));
    must("scope-attr-valid", all("td[scope]"));
    must("empty-table-header", all("th").filter(each => !said(each)));
    must("table-caption", all("table").filter(each => !each.caption || !said(each.caption)));
    const ids = all("[id]").map(each => each.id);
    must("duplicate-id", ids.filter((id, place) => ids.indexOf(id) !== place));
    for (const name of ["aria-labelledby", "aria-describedby", "aria-controls"]) {
        must("aria-valid-attr-value", all("[" + name + "]").filter(each =>
            !document.getElementById(each.getAttribute(name))));
    }
    must("label", all("input, select, textarea").filter(each => ![...each.labels].some(said)));
    must("link-name", all("a[href]").filter(each => !said(each)));
    must("button-name", all("button").filter(each => !said(each)));
    must("tabindex", all("[tabindex]").filter(each => each.tabIndex > 0));
    must("scrollable-region-focusable", all("body *").filter(each =>
        getComputedStyle(each).overflowX === "auto" && each.tabIndex < 0));
    must("landmark-unique", all("nav:not([aria-label]), [role=region]:not([aria-labelledby]):not([aria-label])"));
    must("region", [...document.body.children].filter(each => said(each)
        && !each.matches("main, nav, footer, header, [role=status], a.skip, script, noscript")));
    must("list", all("ul > :not(li), ol > :not(li), dl > :not(div, dt, dd)"));
    must("listitem", all("li").filter(each => !each.parentElement.matches("ul, ol")));
    must("dlitem", all("dl > div").filter(each => !each.querySelector("dt + dd")));
    must("definition-list", all("dl").filter(each => !each.querySelector("dt")));
    must("skip-link", all("a[href^='#']").filter(each => !document.querySelector(each.getAttribute("href"))));
    must("meta-viewport", all("meta[name=viewport]").filter(each => /user-scalable|maximum-scale/.test(each.content)));
    must("image-alt", all("img:not([alt]), svg:not([aria-label]):not([aria-hidden])"));
    must("aria-hidden-focus", all("[aria-hidden=true] a, [aria-hidden=true] [tabindex]"));
    must("nested-interactive", all("a a, a button, button a, label a"));
    return found;
})()"""
