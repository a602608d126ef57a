"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (name) => document.getElementById(name);
  const PAGE = 100;
  const COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb7733", "#888888"];
  const groups = [...new Set(data.map((row) => row.group || ""))].sort();
  const colour = (row) => COLOURS[groups.indexOf(row.group || "") % COLOURS.length];

  // Everything from the readings enters the page through here, as text.
  function make(tag, kind, text, children = []) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    made.append(...children);
    return made;
  }

  const haystack = data.map((row) =>
    [row.query, row.id, row.group, row.completion, row.instruction,
      ...row.readings.flatMap((reading) => [reading.text, ...(reading.words || []).flat().map((word) => word[0])])]
      .join("\n").toLowerCase());

  function word([text, weight, own, context]) {
    const made = make("span", own ? "word own" : "word", text);
    made.style.setProperty("--p", Math.max(0, Math.min(1, weight)));
    made.title = weight.toFixed(3) + (own ? ", a word of the query" : "") + (context ? "\n" + context : "");
    return made;
  }

  function token([text, weight], most) {
    const made = make("span", weight < 0 ? "token minus" : "token", text);
    made.style.setProperty("--p", most ? Math.abs(weight) / most : 0);
    made.title = String(weight);
    return made;
  }

  function content(reading) {
    if (reading.words) {
      return reading.words.map((words, position) =>
        make("span", "position", undefined, [make("b", "", position + 1), ...words.map(word)]));
    }
    if (reading.tokens) {
      const most = Math.max(...reading.tokens.map((one) => Math.abs(one[1])));
      return reading.tokens.map((one) => token(one, most));
    }
    return reading.same ? [reading.text + " ", make("span", "same", "✓")] : [reading.text];
  }

  function line(number) {
    const row = data[number];
    const about = [make("p", "query", row.query)];
    const origin = [row.group, row.id].filter(Boolean).join(" · ");
    about.push(make("p", "dim", origin + (row.instruction ? ` · after “${row.instruction}”` : "")));
    const list = make("dl");
    if (row.completion) list.append(make("dt", "", "the language model answers"), make("dd", "", row.completion));
    for (const reading of row.readings) {
      list.append(make("dt", "", reading.name), make("dd", "", undefined, content(reading)));
    }
    const near = (row.near || []).map(([other, cosine]) => {
      const link = make("button", "near", `${cosine.toFixed(2)} ${data[other].query}`);
      link.type = "button";
      link.addEventListener("click", () => go(other));
      return link;
    });
    const made = make("tr", "", undefined, [make("td", "", undefined, about), make("td", "", undefined, [list]), make("td", "", undefined, near)]);
    made.id = `row-${number}`;
    return made;
  }

  let found = [], shown = 0;
  function more(until = shown + PAGE) {
    const next = found.slice(shown, until);
    element("rows").append(...next.map(line));
    shown += next.length;
    element("more").hidden = shown >= found.length;
  }

  function filter() {
    const wanted = element("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const group = element("group").value;
    found = [...data.keys()].filter((number) =>
      (!group || groups[group - 1] === (data[number].group || "")) && wanted.every((part) => haystack[number].includes(part)));
    element("rows").replaceChildren();
    shown = 0;
    more();
    element("count").textContent = `${found.length} of ${data.length}`;
    const kept = new Set(found);
    for (const circle of document.querySelectorAll("circle")) circle.classList.toggle("off", !kept.has(+circle.dataset.row));
  }

  function go(number) {
    if (!found.includes(number)) {
      element("search").value = element("group").value = "";
      filter();
    }
    more(Math.max(shown, found.indexOf(number) + 1));
    for (const row of document.querySelectorAll("tr.at")) row.classList.remove("at");
    const row = element(`row-${number}`);
    row.classList.add("at");
    row.scrollIntoView({ block: "center" });
  }

  function tip(event, number) {
    const box = element("tip"), row = data[number];
    const decoded = row.readings.find((reading) => !reading.words && !reading.tokens);
    box.textContent = [row.group, row.query, decoded && "→ " + decoded.text].filter(Boolean).join("\n");
    box.style.whiteSpace = "pre-wrap";
    box.hidden = false;
    const at = event.target.getBoundingClientRect();
    box.style.left = Math.max(4, Math.min(at.right + 6, innerWidth - box.offsetWidth - 4)) + "px";
    box.style.top = Math.max(4, Math.min(at.bottom + 6, innerHeight - box.offsetHeight - 4)) + "px";
  }

  function map() {
    const places = [...data.keys()].filter((number) => data[number].place);
    if (!places.length) return;
    const svg = document.querySelector("#map svg");
    for (const number of places) {
      const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      const [x, y] = data[number].place;
      for (const [name, value] of Object.entries({ cx: x, cy: -y, r: 0.016, fill: colour(data[number]), tabindex: 0 })) circle.setAttribute(name, value);
      circle.dataset.row = number;
      for (const name of ["mouseenter", "focus"]) circle.addEventListener(name, (event) => tip(event, number));
      for (const name of ["mouseleave", "blur"]) circle.addEventListener(name, () => { element("tip").hidden = true; });
      circle.addEventListener("click", () => go(number));
      circle.addEventListener("keydown", (event) => { if (event.key === "Enter") go(number); });
      svg.append(circle);
    }
    element("legend").append(...groups.map((name, number) => {
      const dot = make("i");
      dot.style.background = COLOURS[number % COLOURS.length];
      return make("span", "", undefined, [dot, name || "queries"]);
    }));
    element("map").hidden = false;
  }

  groups.forEach((name, number) => {
    const option = make("option", "", name || "queries");
    option.value = number + 1;
    element("group").append(option);
  });
  element("group").hidden = groups.length < 2;
  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("search").addEventListener("input", filter);
  element("group").addEventListener("input", filter);
  element("more").addEventListener("click", () => more());
  map();
  filter();
})();
