"use strict";

// Everything that a server says goes into textContent: a document is data, never markup.
const at = (id) => document.getElementById(id);
const KINDS = { t: "text", i: "picture", it: "picture and text", v: "clip", vt: "clip and text" };
let picture = null;
let pictureUrl = null;
let thumbnails = [];
let latest = 0;

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

function clear() {
  thumbnails.forEach(URL.revokeObjectURL);
  thumbnails = [];
  at("results").replaceChildren();
}

async function show(result) {
  const card = at("card").content.cloneNode(true);
  const put = (name, text) => { card.querySelector(name).textContent = text; };
  put(".text", result.text);
  put(".rank", `#${result.rank}`);
  put(".score", result.score.toFixed(4));
  put(".kind", KINDS[result.modality] || result.modality);
  put(".id", result.id);
  put(".source", result.source || "");
  if (!result.source) card.querySelector(".source").remove();
  const image = card.querySelector("img");
  if (!result.text) card.querySelector(".text").remove();
  if (result.image) image.alt = result.text ? `Picture of ${result.id}` : `Picture ${result.id}, no caption`;
  else {
    card.querySelector(".picture").remove();
    card.querySelector(".card").classList.add("words");
  }
  at("results").append(card);
  if (!result.image) return;
  // Fetched and not linked, so that a key can go along.
  const reply = await fetch(result.image, { headers: headers() });
  if (!reply.ok) return;
  const url = URL.createObjectURL(await reply.blob());
  thumbnails.push(url);
  image.src = url;
}

async function search(event) {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text && !picture) {
    fail("Type something, or choose a picture.");
    at("text").focus();
    return;
  }
  const form = new FormData();
  form.set("text", text);
  form.set("k", at("k").value);
  form.set("target", document.querySelector("input[name=target]:checked").value);
  if (picture) form.set("image", picture);
  const mine = ++latest;
  at("go").disabled = true;
  at("results").classList.add("stale");
  at("status").textContent = "Searching …";
  fail("");
  try {
    const start = performance.now();
    const reply = await fetch("/v1/search", { method: "POST", body: form, headers: headers() });
    const answer = await reply.json();
    if (mine !== latest) return;
    if (reply.status === 401) {
      at("key-row").hidden = false;
      at("key").focus();
    }
    if (!reply.ok) throw new Error(answer.error.message);
    clear();
    const found = answer.results.length;
    const waited = Math.round(performance.now() - start);
    at("status").textContent = `${found} ${found === 1 ? "result" : "results"} in ${answer.took_ms} ms (${waited} ms round trip)`;
    name(answer.model, answer.release);
    answer.results.forEach(show);
  } catch (error) {
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

function name(model, release) {
  at("release").textContent = `${model}, release ${release}`;
}

async function greet() {
  const reply = await fetch("/health").catch(() => null);
  if (!reply || !reply.ok) {
    fail("The server is not ready; try again in a moment.");
    return;
  }
  const answer = await reply.json();
  name(answer.model, answer.release);
  at("key-row").hidden = !answer.key;
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
at("search").addEventListener("submit", search);
greet();
