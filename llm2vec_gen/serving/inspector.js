"use strict";
(() => {
  const element = (name) => document.getElementById(name);
  const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]/gu;
  let info = null; // what /v1/inspector says of the model
  let key = ""; // in memory alone
  let running = new AbortController();

  // Building: everything from the user and the server enters the page through here, as text.

  const visible = (text) =>
    String(text).replace(CONTROL, (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

  function make(tag, kind, text, children = []) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = visible(text);
    made.append(...children);
    return made;
  }

  const generated = (text) =>
    text.trim() ? make("p", "text", text.trim()) : make("p", "text none", "nothing: the model ends at once");

  function word(text, probability, own, both) {
    const made = make("span", ["word", own && "own", both && "both"].filter(Boolean).join(" "), text);
    if (probability === undefined) return made;
    made.style.setProperty("--p", probability);
    made.append(make("small", "", probability < 0.01 ? "<1%" : `${Math.round(100 * probability)}%`));
    return made;
  }

  function lensList(words, probabilities, isOwn, isShared) {
    const list = make("ol", "lens");
    words.forEach((position, token) => {
      const shown = position.map((text, place) =>
        word(text, probabilities[token][place], isOwn(token, place), isShared(text)));
      list.append(make("li", "", undefined, [make("span", "number", token + 1), make("span", "words", undefined, shown)]));
    });
    return list;
  }

  function bars(cosines) {
    const made = make("span", "bars", undefined, cosines.map((cosine) => {
      const bar = make("i", cosine < 0 ? "below" : "");
      bar.style.setProperty("--p", Math.min(1, Math.abs(cosine)));
      return bar;
    }));
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", made.title = `cosines by token: ${cosines.map((cosine) => cosine.toFixed(2)).join(", ")}`);
    return made;
  }

  const pair = (name, ...values) => make("div", "pair", undefined, [make("span", "", name), ...values]);

  function meters(cosines) {
    const rows = cosines.map((cosine, token) => {
      const bar = make("span", cosine < 0 ? "meter below" : "meter");
      bar.style.setProperty("--p", Math.min(1, Math.abs(cosine)));
      return make("li", "", undefined, [make("span", "number", token + 1), bar, make("span", "", cosine.toFixed(3))]);
    });
    return make("ol", "meters", undefined, rows);
  }

  // Asking

  class KeyNeeded extends Error {}

  async function ask(path, body, signal) {
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error(error instanceof TypeError && !navigator.onLine ? "this machine is offline" : "no answer from the server: is it still running?");
    }
    const answer = await response.json().catch(() => null);
    if (response.status === 401) throw new KeyNeeded(answer?.error?.message || "this server asks for a key");
    if (!response.ok || !answer) throw new Error(answer?.error?.message || `the server answers with status ${response.status}`);
    return answer;
  }

  function askForKey(error) {
    element("key-form").hidden = false;
    element("key").focus();
    report(key ? error.message : "");
  }

  function report(message) {
    element("problem").textContent = visible(message);
    element("problem").hidden = !message;
  }

  async function panel(name, work, signal) {
    const section = element(name), content = section.querySelector(".content");
    content.replaceChildren(make("div", "waiting", "the model computes"));
    section.setAttribute("aria-busy", "true");
    try {
      const children = await work();
      if (!signal.aborted) content.replaceChildren(...children);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof KeyNeeded) askForKey(error);
      content.replaceChildren(make("div", "error", error.message));
    } finally {
      if (!signal.aborted) section.removeAttribute("aria-busy");
    }
  }

  // Reading one text

  function settings() {
    return {
      instruction: element("instruction").value, tokens: element("tokens").valueAsNumber,
      words: element("words").valueAsNumber, space: element("space").value, top: element("top").valueAsNumber,
    };
  }

  function read(text, signal) {
    const chosen = settings(), model = info.model, instructed = { model, input: text, instruction: chosen.instruction };
    const instruct = chosen.instruction.trim() ? `${chosen.instruction.trim()} ${text.trim()}` : text; // as the server joins them
    return [
      panel("completion", async () => {
        const options = { model, temperature: 0, max_tokens: chosen.tokens };
        if (!info.chat) return [generated((await ask("v1/completions", { ...options, prompt: instruct }, signal)).choices[0].text)];
        const messages = [{ role: "user", content: instruct }];
        return [generated((await ask("v1/chat/completions", { ...options, messages }, signal)).choices[0].message.content)];
      }, signal),
      panel("decoding", async () =>
        [generated((await ask("v1/decode", { ...instructed, max_tokens: chosen.tokens }, signal)).data[0].text)], signal),
      panel("lens", async () => {
        const [found] = (await ask("v1/lens", { ...instructed, top: chosen.words, space: chosen.space }, signal)).data;
        return [lensList(found.words, found.probabilities, (token, place) => found.in_query[token][place], () => false)];
      }, signal),
      panel("embedding", async () => embedding((await ask("v1/embeddings", instructed, signal)).data[0].embedding), signal),
      ...(info.index ? [panel("passages", () => passages(instructed, chosen, signal), signal)] : []),
    ];
  }

  function embedding(values) {
    const norm = Math.hypot(...values), copy = make("button", "", "Copy as JSON");
    copy.type = "button";
    copy.addEventListener("click", async () => {
      const done = await navigator.clipboard?.writeText(JSON.stringify(values)).then(() => true, () => false);
      copy.textContent = done ? "Copied" : "The browser does not allow copying here";
    });
    const first = values.slice(0, 6).map((value) => value.toFixed(3)).join(", ");
    return [make("div", "row", undefined, [make("span", "", `${values.length} numbers, norm ${norm.toFixed(3)}: ${first}, …`), copy])];
  }

  async function passages(instructed, chosen, signal) {
    const { soft_prompts: stored, texts } = info.index;
    const request = { ...instructed, top: chosen.top };
    if (info.cannot_decode || (!stored && !texts)) { // nothing to explain hits with
      const [found] = (await ask("v1/search", request, signal)).data;
      return [hits(found)];
    }
    const body = { ...request, words: chosen.words, max_tokens: chosen.tokens, source: stored ? "stored" : "reencode" };
    const [found] = (await ask("v1/explain", body, signal)).data;
    return [make("p", "", `Your text was read as: ${found.gist || "nothing"}`), hits(found)];
  }

  function hits(found) {
    const rows = found.hits.map((hit, place) => {
      const facts = [hit.id, ...Object.entries(hit.metadata || {}).map(([name, value]) => `${name}: ${value}`)];
      const row = make("li", "", undefined, [
        make("div", "head", undefined, [make("span", "dim", `${place + 1}.`), make("span", "score", hit.score.toFixed(3)), make("span", "dim", facts.join(" · "))]),
        make("p", "passage", hit.text ?? hit.source),
      ]);
      if (hit.token_cosines) {
        row.append(pair("was read as", make("span", "", hit.gist || "nothing")));
        row.append(pair("words of both", ...(hit.shared.length ? hit.shared.map((text) => word(text)) : [make("span", "dim", "none")])));
        row.append(pair("token by token", bars(hit.token_cosines)));
      }
      return row;
    });
    return rows.length ? make("ol", "hits", undefined, rows) : make("p", "dim", "The index has no passage.");
  }

  // Comparing two

  function compare(first, second, signal) {
    const chosen = settings();
    const body = {
      model: info.model, input: [first, second], instruction: chosen.instruction,
      second_instruction: element("second-instruction").value, top: chosen.words, space: chosen.space,
      max_tokens: info.cannot_decode ? 0 : chosen.tokens,
    };
    return [panel("comparison", async () => comparison(await ask("v1/compare", body, signal), [first, second]), signal)];
  }

  function comparison(found, texts) {
    const both = new Set(found.shared_words.map((text) => text.toLowerCase()));
    const sides = found.data.map((side, number) => make("div", "", undefined, [
      make("h3", "", texts[number]),
      ...(side.text === null ? [make("p", "dim", info.cannot_decode)] : [make("div", "dim", "decodes to"), generated(side.text)]),
      lensList(side.words, side.probabilities, () => false, (text) => both.has(text.toLowerCase())),
    ]));
    const shared = found.shared_words.length ? found.shared_words.map((text) => word(text)) : [make("span", "dim", "none")];
    return [
      make("p", "cosine", undefined, [make("b", "", found.cosine.toFixed(3)), make("span", "", "cosine of the embeddings")]),
      make("div", "dim", "cosine of each compression token"), meters(found.token_cosines),
      pair("words of both", ...shared), make("div", "sides", undefined, sides),
    ];
  }

  // The form

  const mode = () => document.querySelector("input[name=mode]:checked").value;

  function showMode() {
    const compares = mode() === "compare";
    for (const one of document.querySelectorAll("form .compare")) one.hidden = !compares;
    for (const one of document.querySelectorAll("form .read")) one.hidden = compares;
    element("first-label").textContent = compares ? "First text" : "Text";
    element("submit").textContent = compares ? "Compare" : "Read";
  }

  async function submit() {
    const compares = mode() === "compare", fields = compares ? ["first", "second"] : ["first"];
    const empty = fields.find((name) => !element(name).value.trim());
    report(empty ? "type a text first" : "");
    if (empty) return element(empty).focus();
    running.abort(); // the server drops what nobody waits for
    running = new AbortController();
    const { signal } = running, texts = fields.map((name) => element(name).value);
    try {
      await load(signal);
    } catch (error) {
      if (signal.aborted) return;
      return error instanceof KeyNeeded ? askForKey(error) : report(error.message);
    }
    element("read-results").hidden = compares;
    element("compare-results").hidden = !compares;
    element("status").textContent = "the model computes";
    await Promise.all(compares ? compare(...texts, signal) : read(...texts, signal));
    if (!signal.aborted) element("status").textContent = "the results are complete";
  }

  async function load(signal) {
    if (info) return;
    const found = await ask("v1/inspector", undefined, signal);
    if (info) return;
    info = found;
    const facts = [info.model, `${info.num_compression_tokens} compression tokens`, `${info.embedding_dim} dimensions`];
    if (info.index) facts.push(`index of ${info.index.documents} documents`);
    element("model").textContent = visible(facts.join(" · "));
    for (const one of document.querySelectorAll(".of-index")) one.hidden = !info.index;
    const [own, second] = info.index ? [info.index.instructions.query, info.index.instructions.query] : ["", ""];
    element("instruction").value = own;
    element("second-instruction").value = second;
    const known = [...Object.values(info.instructions), ...Object.values(info.index?.instructions || {})];
    element("instructions").append(...[...new Set(known)].filter(Boolean).map((text) => {
      const option = make("option");
      option.value = text;
      return option;
    }));
  }

  for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", showMode);
  for (const button of document.querySelectorAll(".examples button")) {
    button.addEventListener("click", () => {
      element("first").value = button.dataset.first;
      element("second").value = button.dataset.second ?? element("second").value;
      element("form").requestSubmit();
    });
  }
  for (const text of document.querySelectorAll("textarea")) {
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      element("form").requestSubmit();
    });
  }
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  element("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key = element("key").value.trim();
    element("key-form").hidden = true; // a wrong key brings it back
    report("");
    if (element("first").value.trim()) submit();
    else load().catch((error) => (error instanceof KeyNeeded ? askForKey(error) : report(error.message)));
  });
  showMode();
  load().catch((error) => (error instanceof KeyNeeded ? askForKey(error) : report(error.message)));
})();
