"use strict";

// Everything that a server says goes into the page as text: a document is data, never markup.
const at = (id) => document.getElementById(id);
// What there is to find, in words, by the letters of a modality.
const KINDS = {
  "": ["document", "documents"],
  i: ["picture", "pictures"],
  it: ["picture with text", "pictures with text"],
  t: ["text", "texts"],
  v: ["clip", "clips"],
  vt: ["clip with text", "clips with text"],
};
const K = "10";
let documents = null; // how many the release has of each kind; null until the server has said so
let release = null;
let choices = [""]; // the kinds that can be found, the first of which is chosen where the visitor chooses none; "" is anything
let wanted = null;
let picture = null;
let pictureUrl = null;
const pictures = new Map(); // those searched with, by the states of the history that they belong to: no URL holds a picture
let thumbnails = [];
let searched = false;
let latest = 0;

const total = () => Object.values(documents || {}).reduce((sum, one) => sum + one, 0);
const words = (kind, count) => (KINDS[kind] || KINDS[""])[count === 1 ? 0 : 1];
const counted = (kind, count) => `${count.toLocaleString("en")} ${words(kind, count)}`;
const inUrl = (kind) => (kind ? words(kind, 2).replaceAll(" ", "-") : "anything");
const target = () => (wanted !== null && (!documents || choices.includes(wanted)) ? wanted : choices[0]);

function headers() {
  return at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {};
}

function choose(file) {
  if (file && !file.type.startsWith("image/")) {
    fail("That file is no picture; choose a JPEG, PNG, WEBP or GIF.");
    return;
  }
  if (pictureUrl) URL.revokeObjectURL(pictureUrl);
  picture = file || null;
  pictureUrl = picture && URL.createObjectURL(picture);
  if (picture) at("preview").src = pictureUrl;
  else at("preview").removeAttribute("src");
  at("filename").textContent = picture ? picture.name : "";
  at("chosen").hidden = !picture;
  at("choose").hidden = Boolean(picture);
  at("file").value = "";
  fail("");
}

function fail(line) {
  at("error").textContent = line;
  at("error").hidden = !line;
}

function warn(lines) {
  at("warnings").replaceChildren(...lines.map((line) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    return paragraph;
  }));
  at("warnings").hidden = !lines.length;
}

function clear() {
  thumbnails.forEach(URL.revokeObjectURL);
  thumbnails = [];
  at("results").replaceChildren();
  warn([]);
}

// A path or an id is broken behind its separators, and within a word only where one is wider than the card.
function putBreakable(element, text) {
  for (const part of text.split(/(?<=[/_.-])/)) element.append(part, document.createElement("wbr"));
}

async function show(result) {
  const card = at("card").content.cloneNode(true);
  const find = (name) => card.querySelector(name);
  find(".text").textContent = result.text;
  find(".rank").textContent = `#${result.rank}`;
  find(".score").textContent = result.score.toFixed(3);
  if (choices.length > 1) find(".kind").textContent = words(result.modality, 1);
  else find(".kind").remove();
  putBreakable(find(".id"), result.id);
  if (result.source) putBreakable(find(".source"), result.source);
  else find(".source").remove();
  const image = find("img");
  const more = find(".more");
  if (!result.text) find(".text").remove();
  if (result.image) image.alt = result.text ? `Picture of ${result.id}` : `Picture ${result.id}, no caption`;
  else {
    find(".picture").remove();
    more.remove();
    find(".card").classList.add("words");
  }
  at("results").append(card);
  if (!result.image) return;
  // Fetched and not linked, so that a key can go along.
  const reply = await fetch(result.image, { headers: headers() });
  if (!reply.ok) return;
  const blob = await reply.blob();
  if (!image.isConnected) return;
  const url = URL.createObjectURL(blob);
  thumbnails.push(url);
  image.src = url;
  const name = (result.source || result.id).split("/").pop();
  const searchLikeIt = () => searchLike(new File([blob], name, { type: blob.type }));
  more.setAttribute("aria-label", `More like this: ${result.id}`);
  more.hidden = false;
  more.addEventListener("click", searchLikeIt);
  image.addEventListener("click", searchLikeIt);
}

function searchLike(file) {
  at("text").value = "";
  choose(file);
  window.scrollTo(0, 0);
  at("status").focus({ preventScroll: true }); // the card with the focus is about to go
  search();
}

// Puts the search into the address, so that it can be reloaded, sent, and gone back to.
function remember(write) {
  const query = new URLSearchParams();
  if (at("text").value.trim()) query.set("q", at("text").value.trim());
  if (choices.length > 1) query.set("find", inUrl(target()));
  if (at("k").value !== K) query.set("k", at("k").value);
  const address = `${location.pathname}${query.size ? `?${query}` : ""}`;
  const samePicture = picture === (pictures.get(history.state) || null);
  if (samePicture && address === location.pathname + location.search) return;
  const state = !picture || samePicture ? history.state : `${performance.timeOrigin}/${pictures.size}`;
  if (picture) pictures.set(state, picture);
  history[write](picture && state, "", address);
}

// Puts what the address says into the form.
function readAddress() {
  const query = new URLSearchParams(location.search);
  const found = Object.keys(KINDS).find((kind) => inUrl(kind) === query.get("find"));
  wanted = found === undefined ? null : found;
  at("text").value = query.get("q") || "";
  at("k").value = query.get("k") || K;
  if (!at("k").value) at("k").value = K;
  choose(pictures.get(history.state));
  offer();
}

// Shows what the address says: its search, or the page as it begins.
function recall() {
  readAddress();
  if (at("text").value.trim() || picture) {
    search("replaceState");
    return;
  }
  latest++;
  searched = false;
  clear();
  at("go").disabled = false;
  at("results").classList.remove("stale");
  at("status").textContent = "";
  at("start").hidden = false;
}

async function search(write = "pushState") {
  const text = at("text").value.trim();
  if (!text && !picture) {
    fail("Type something, or choose a picture.");
    at("text").focus();
    return;
  }
  const mine = ++latest;
  searched = true;
  at("go").disabled = true;
  at("results").classList.add("stale");
  at("start").hidden = true;
  at("status").textContent = "Searching …";
  fail("");
  try {
    if (!documents) await learn();
    if (mine !== latest) return;
    if (documents) remember(write);
    const kind = target();
    const form = new FormData();
    form.set("text", text);
    form.set("k", at("k").value);
    form.set("target", kind);
    if (picture) form.set("image", picture);
    const reply = await fetch("/v1/search", { method: "POST", body: form, headers: headers() });
    const answer = await reply.json();
    if (mine !== latest) return;
    if (reply.status === 401) askForKey();
    if (!reply.ok) throw new Error(answer.error.message);
    if (answer.release !== release) await learn();
    clear();
    at("status").textContent = summary(answer, kind);
    warn(answer.warnings || []);
    answer.results.forEach(show);
    name(answer);
  } catch (error) {
    if (mine !== latest) return;
    clear();
    at("status").textContent = "";
    fail(error instanceof TypeError ? "The server does not answer." : error.message);
  } finally {
    if (mine === latest) {
      at("go").disabled = false;
      at("results").classList.remove("stale");
    }
  }
}

function summary(answer, kind) {
  const seconds = answer.took_ms < 10 ? "less than 0.01" : (answer.took_ms / 1000).toFixed(2);
  const nothing = answer.results.length ? "" : "Nothing found. ";
  const count = kind ? documents?.[kind] : total();
  if (!count) return `${nothing}Searched in ${seconds} s`;
  const named = kind || (choices.length === 1 && Object.keys(documents)[0]);
  const what = named ? counted(named, count) : count.toLocaleString("en");
  return `${nothing}${what} searched in ${seconds} s`;
}

function name(answer) {
  at("release").textContent = `${answer.model}, release ${answer.release}`;
}

function askForKey() {
  at("key-row").hidden = false;
  at("key").focus();
}

// Asks what there is to find. Where the server refuses, the next search says why.
async function learn() {
  const reply = await fetch("/v1/models", { headers: headers() });
  if (!reply.ok) return;
  const [model] = (await reply.json()).data;
  ({ documents, release } = model);
  const kinds = Object.keys(documents).sort((one, other) => documents[other] - documents[one]);
  choices = kinds.length > 1 ? ["", ...kinds] : [""];
  // A model of two towers puts texts nearer to a text than pictures are: beside texts, a search by words for anything would show no picture.
  const seen = kinds.find((kind) => kind !== "t");
  if (seen && kinds.includes("t")) choices = [seen, "", ...kinds.filter((kind) => kind !== seen)];
  const amounts = kinds.map((kind) => counted(kind, documents[kind]));
  const list = new Intl.ListFormat("en-GB", { type: "conjunction" }).format(amounts);
  at("amount").textContent = list && `${list} to search`;
  offer();
}

function offer() {
  at("find").querySelectorAll("label").forEach((label) => label.remove());
  at("find").hidden = choices.length === 1;
  if (choices.length === 1) return;
  for (const kind of choices) {
    const choice = at("choice").content.cloneNode(true);
    const input = choice.querySelector("input");
    const label = kind ? words(kind, 2) : "anything";
    const count = kind ? documents[kind] : total();
    input.value = kind;
    input.checked = kind === target();
    input.addEventListener("change", () => { wanted = kind; searchAgain(); });
    choice.querySelector("span").textContent = `${label[0].toUpperCase()}${label.slice(1)} (${count.toLocaleString("en")})`;
    at("find").append(choice);
  }
}

function searchAgain() {
  if (searched && (at("text").value.trim() || picture)) search();
}

async function start() {
  const reply = await fetch("/health").catch(() => null);
  if (!reply || !reply.ok) {
    fail("The server is not ready; try again in a moment.");
    return;
  }
  const answer = await reply.json();
  if (!answer.key) await learn().catch(() => null);
  name(answer);
  if (!answer.key) recall();
  else {
    readAddress();
    askForKey();
  }
}

let depth = 0;
const drags = (event) => event.dataTransfer && Array.from(event.dataTransfer.types).includes("Files");
document.addEventListener("dragenter", (event) => { if (drags(event)) document.body.classList.toggle("dragging", ++depth > 0); });
document.addEventListener("dragleave", (event) => { if (drags(event)) document.body.classList.toggle("dragging", --depth > 0); });
document.addEventListener("dragover", (event) => { if (drags(event)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!drags(event)) return;
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dragging");
  choose(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = Array.from(event.clipboardData.files).find((one) => one.type.startsWith("image/"));
  if (file) choose(file);
});
at("file").addEventListener("change", () => choose(at("file").files[0]));
at("remove").addEventListener("click", () => { choose(null); at("file").focus(); });
at("search").addEventListener("submit", (event) => { event.preventDefault(); search(); });
at("k").addEventListener("change", searchAgain);
window.addEventListener("popstate", recall);
start();
