// The page: what is chosen goes to engine.js, or to page.py where that serves the page, and what is
// found is shown beside the picture.
"use strict"
const by = (id) => document.getElementById(id)
const percent = (share, digits = 0) => (100 * share).toFixed(digits) + "%"
const MOST = 50e6  // pixels of a photo
const STEP = 1 / 8  // seconds from one picture of a video file to the next

let about = {}, kept = []  // all answers, as rows

function element(parent, name, words = "", style = "") {
  const made = document.createElement(name)
  made.textContent = words
  made.className = style
  parent.append(made)
  return made
}

// ---- What looks at pictures: a thread of this browser
const calls = new Map()
let engine

function call(kind, given = {}, told = () => {}, transfer = []) {
  const id = calls.size + Math.random()
  return new Promise((done, fail) => {
    calls.set(id, {done, fail, told})
    engine.postMessage({id, kind, ...given}, transfer)
  })
}

// Of a page that is one file: the bytes of the others, which stand in it.
async function embedded() {
  const files = {}
  for (const place of document.querySelectorAll("script[data-file]")) {
    const answer = await fetch(`data:;base64,${place.textContent}`)
    files[place.dataset.file] = new Uint8Array(await answer.arrayBuffer())
    place.remove()
  }
  return files
}

function startEngine(address, type) {
  engine = new Worker(address, {type})
  engine.onmessage = ({data: {id, news, error, ...answer}}) => {
    const {done, fail, told} = calls.get(id)
    if (news) return told(news)
    calls.delete(id)
    if (error) fail(new Error(error))
    else done(answer)
  }
  engine.onerror = (event) => {
    for (const {fail} of calls.values()) fail(new Error(event.message || "the page's files are not all here"))
    calls.clear()
  }
}

// The pixels of what can be drawn, as the picture is shown.
function pixelsOf(source, width, height) {
  const canvas = new OffscreenCanvas(width, height)
  const context = canvas.getContext("2d", {willReadFrequently: true, colorSpace: "srgb"})
  context.drawImage(source, 0, 0, width, height)
  const pixels = context.getImageData(0, 0, width, height)
  canvas.width = canvas.height = 0  // its memory goes now, not when garbage is collected
  return pixels
}

async function decoded(file) {
  let bitmap
  try {
    bitmap = await createImageBitmap(file, {colorSpaceConversion: "none", premultiplyAlpha: "none"})
  } catch {
    throw new Error(/\.hei[cf]$/i.test(file.name) ? "this browser reads no HEIC photos; save it as JPEG" :
      "damaged, or no picture that this browser can read; JPEG, PNG and WebP are")
  }
  const {width, height} = bitmap
  if (width * height > MOST) {
    bitmap.close()
    throw new Error(`${Math.round(width * height / 1e6)} megapixels; up to ${MOST / 1e6} can be read here`)
  }
  return bitmap
}

// ---- The chart of P(age)
const SVG = "http://www.w3.org/2000/svg"

function shape(parent, name, given, words = "") {
  const made = document.createElementNS(SVG, name)
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value)
  made.textContent = words
  parent.append(made)
  return made
}

function draw(place, face) {
  const [width, height, base, top] = [420, 130, 104, 22], probas = face.age_probas
  const most = Math.max(...probas), unit = width / probas.length
  const x = (age) => (age - about.youngest + .5) * unit
  const y = (share) => base - (base - top) * share / most
  const svg = shape(place, "svg", {viewBox: `0 0 ${width} ${height}`, role: "img"})
  svg.setAttribute("aria-label", `Most of the probability is between ${face.age_low} and ${face.age_high} years`)
  const line = probas.map((share, i) => `${x(about.youngest + i)},${y(share)}`).join(" ")
  const inside = probas.map((share, i) => [about.youngest + i, share])
    .filter(([age]) => age >= face.age_low && age <= face.age_high)
  const [left, right] = [x(face.age_low), x(face.age_high)]
  shape(svg, "polygon", {fill: "var(--curve)", opacity: .45,
    points: `${left},${base} ${inside.map(([age, p]) => `${x(age)},${y(p)}`).join(" ")} ${right},${base}`})
  shape(svg, "polyline", {points: line, fill: "none", stroke: "var(--blue)", "stroke-width": 2})
  shape(svg, "line", {x1: 0, x2: width, y1: base, y2: base, stroke: "var(--line)"})
  const oldest = about.youngest + probas.length - 1
  for (let age = Math.ceil(about.youngest / 20) * 20; age <= oldest; age += 20)
    shape(svg, "text", {x: Math.min(Math.max(x(age), 8), width - 12), y: base + 18, "text-anchor": "middle"}, age)
  const middle = Math.min(Math.max(x(face.age), 40), width - 40)
  shape(svg, "line", {x1: x(face.age), x2: x(face.age), y1: top - 4, y2: base, stroke: "var(--blue)"})
  shape(svg, "text", {x: middle, y: top - 9, "text-anchor": "middle", class: "age"}, `${face.age} years`)
}

// ---- What is said of a face
const years = (face) => `${face.age}` + (!face.at_end_of_range || !face.age ? "" :
  face.age == about.youngest ? " or younger" : " or older")

function shares(face) {
  const limits = by("over").value.split(/[ ,]+/).map(Number)
    .filter((limit) => limit > about.youngest && limit < about.youngest + about.classes &&
      (face.age_probas || `over_${limit}` in face))
  return limits.map((limit) => [limit, face[`over_${limit}`] ?? Math.min(1, face.age_probas
    .slice(limit - about.youngest).reduce((a, b) => a + b, 0))])
}

function sentences(face) {
  const told = [`${percent(about.coverage)} interval ${face.age_low}–${face.age_high}`]
  if (face.gender) told.push(`${face.gender} ${percent(face.gender_probability)}`)
  for (const [limit, share] of shares(face)) told.push(`at least ${limit}: ${percent(share)}`)
  return told
}

// Said anew when other limits are asked for.
function tellSentences(place, face) {
  const line = element(place, "div", "", "told")
  line.tell = () => {
    line.replaceChildren()
    for (const words of sentences(face)) {
      if (line.firstChild) line.append(" · ")
      element(line, "span", words)
    }
  }
  line.tell()
}
by("over").oninput = () => document.querySelectorAll(".told").forEach((line) => line.tell())

function tellDoubts(place, face) {
  if (face.not_sure) element(place, "div", `not sure: ${face.not_sure}`, "doubt")
  if (face.gender_not_sure) element(place, "div", `gender not sure: ${face.gender_not_sure}`, "doubt")
}

// The picture with its boxes at the left, and a card for each face.
function show(article, shown, size, faces) {
  const columns = element(article, "div", "", "columns"), picture = element(columns, "div", "", "picture")
  const boxes = element(picture, "div", "", "boxes"), list = element(columns, "ol", "", "faces")
  picture.prepend(shown)
  if (!faces.length) list.replaceWith(element(columns, "p", "No face was found."))
  const choose = (number) => {
    for (const one of [...boxes.children, ...list.children])
      one.classList.toggle("on", one.dataset.face == number)
    for (const card of list.children) {
      card.firstChild.setAttribute("aria-expanded", card.dataset.face == number)
      card.lastChild.hidden = card.dataset.face != number
    }
  }
  for (const face of faces) {
    boxFor(boxes, face, size, faces.length > 1).onclick = () => {
      choose(face.face)
      list.querySelector(".on > button").focus()
    }
    const card = element(list, "li", "", "face"), button = element(card, "button")
    card.dataset.face = face.face
    const thumb = element(button, "canvas"), words = element(button, "span")
    if (faces.length > 1) element(words, "span", `${face.face}  `, "quiet")
    element(words, "strong", years(face))
    element(words, "span", face.age == 1 ? " year" : " years")
    tellSentences(words, face)
    tellDoubts(words, face)
    button.onclick = () => choose(face.face)
    drawThumb(thumb, face.thumb ?? shown, face, size)
    draw(element(card, "div", "", "chart"), face)
  }
  if (faces.length) choose(faces[0].face)
}

function boxFor(boxes, face, size, numbered) {
  const box = element(boxes, "button", "", "box"), {style} = box
  const [left, top] = [face.left / size.width, face.top / size.height]
  style.left = percent(left, 2)
  style.top = percent(top, 2)
  style.setProperty("--top", top)
  style.width = percent((face.right - face.left) / size.width, 2)
  style.height = percent((face.bottom - face.top) / size.height, 2)
  box.dataset.face = face.face
  element(box, "span", (numbered ? `${face.face}: ` : "") + years(face))
  box.setAttribute("aria-label", `face ${face.face}, ${years(face)} years`)
  return box
}

function drawThumb(canvas, shown, face, size) {
  canvas.width = canvas.height = 112
  const side = 1.3 * Math.max(face.right - face.left, face.bottom - face.top)
  const scale = (shown.naturalWidth || shown.videoWidth || shown.width) / size.width
  const from = [(face.left + face.right - side) / 2, (face.top + face.bottom - side) / 2, side, side]
  canvas.getContext("2d").drawImage(shown, ...from.map((x) => x * scale), 0, 0, 112, 112)
}

// ---- Photos and videos
function newArticle(name) {
  const article = document.createElement("article"), head = element(article, "header")
  by("results").prepend(article)
  element(head, "h2", name)
  const button = element(head, "button", "Remove", "button small")
  button.ariaLabel = `Remove ${name}`
  button.onclick = () => {
    article.remove()
    article.freed?.()
    kept = kept.filter((row) => row.article != article)
    tidy()
  }
  return article
}

function keep(article, source, kind, faces) {
  const found = faces.map((face) => `${years(face)} years`).join(", ")
  by("spoken").textContent = `${source}: ${found || "no face was found"}`
  kept.push(...faces.map((face) => ({article, source, kind, ...face})))
  tidy()
}

function tidy() {
  by("save").hidden = !by("results").children.length
  by("tables").hidden = !kept.length
}

function fail(article, name, error) {
  element(article, "p", error.message, "error")  // the article's heading is the name
  by("spoken").textContent = `${name}: ${error.message}`
  tidy()
}

async function photo(file, name) {
  const bitmap = await decoded(file), size = {width: bitmap.width, height: bitmap.height}
  const pixels = pixelsOf(bitmap, size.width, size.height)
  const {faces} = await call("photo", {pixels}, undefined, [pixels.data.buffer])
  const scale = Math.min(1, 1600 / Math.max(size.width, size.height))
  const canvas = new OffscreenCanvas(Math.ceil(size.width * scale), Math.ceil(size.height * scale))
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height)
  bitmap.close()
  // a hundred canvases would take a gigabyte; an image out of sight takes its file
  const blob = await canvas.convertToBlob({type: "image/jpeg", quality: .9}), shown = new Image()
  canvas.width = canvas.height = 0
  shown.src = URL.createObjectURL(blob)
  shown.alt = `${name}, ${faces.length} face${faces.length == 1 ? "" : "s"}`
  await shown.decode()
  const article = newArticle(name)
  article.freed = () => URL.revokeObjectURL(shown.src)
  show(article, shown, size, faces)
  keep(article, name, "image", faces)
}

const loaded = (film, event) => new Promise((done, failed) => {
  film.addEventListener(event, done, {once: true})
  film.addEventListener("error", () => failed(new Error("damaged, or no video that this browser can play")), {once: true})
})

async function video(file, name, progress) {
  const film = document.createElement("video"), url = URL.createObjectURL(file)
  Object.assign(film, {src: url, muted: true, playsInline: true, preload: "auto"})
  await loaded(film, "loadeddata")
  const size = {width: film.videoWidth, height: film.videoHeight}, tracks = [], views = new Map()
  if (!size.width) throw new Error("no picture in it")
  for (let seconds = 0, first = true; seconds < film.duration; seconds += STEP, first = false) {
    if (stopped) throw new Error("stopped")
    if (!first) {
      film.currentTime = seconds
      await loaded(film, "seeked")
      if (film.currentTime < seconds - STEP) break  // some videos don't say where they end
    }
    const pixels = pixelsOf(film, size.width, size.height)
    const found = await call("frame", {pixels, seconds, first}, undefined, [pixels.data.buffer])
    for (const face of found.faces) {
      const area = (face.right - face.left) * (face.bottom - face.top)
      if (area > (views.get(face.face)?.area ?? 0)) {
        const thumb = document.createElement("canvas")
        drawThumb(thumb, film, face, size)
        views.set(face.face, {area, thumb, ...face})
      }
    }
    tracks.push(...found.ended)
    progress(seconds, film.duration)
  }
  tracks.push(...(await call("end")).ended)
  const article = newArticle(name)
  article.freed = () => URL.revokeObjectURL(url)
  showFilm(article, film, tracks.sort((a, b) => a.seconds - b.seconds), views)
  keep(article, name, "track", tracks)
}

function showFilm(article, film, tracks, views) {
  const columns = element(article, "div", "", "columns"), place = element(columns, "div", "", "picture")
  film.controls = true
  film.ariaLabel = article.querySelector("h2").textContent
  place.append(film)
  const list = element(columns, "ol", "", "faces")
  if (!tracks.length) list.replaceWith(element(columns, "p", "No face was found."))
  for (const track of tracks) {
    const card = element(list, "li", "", "face"), button = element(card, "button")
    const view = views.get(track.face)
    if (view) button.append(view.thumb)
    const words = element(button, "span")
    element(words, "strong", years(track))
    element(words, "span", " years")
    tellSentences(words, track)
    tellDoubts(words, track)
    element(words, "div", `${track.seconds.toFixed(1)} to ${track.until_seconds.toFixed(1)} s`, "quiet")
    button.onclick = () => { film.currentTime = track.seconds }
  }
}

// ---- Where page.py serves the page, it looks at the pictures
async function* lines(response) {
  const reader = response.body.getReader()
  let held = new Uint8Array()
  for (let part; !(part = await reader.read()).done;) {
    held = new Uint8Array([...held, ...part.value])
    for (let end; (end = held.indexOf(10)) >= 0;) {
      const line = JSON.parse(new TextDecoder().decode(held.subarray(0, end)))
      held = held.slice(end + 1)
      if (line.bytes) {
        const parts = [held]
        while (!(part = await reader.read()).done) parts.push(part.value)
        line.copy = new Blob(parts, {type: line.faces ? "image/jpeg" : "video/mp4"})
        if (line.copy.size != line.bytes) return
      }
      yield line
      if (line.notes || line.error) return
    }
  }
}

async function served(file, name, progress) {
  if (file.size > about.megabytes * 1e6) throw new Error(`larger than ${about.megabytes} MB`)
  const options = {method: "POST", body: file, signal: control.signal}
  const over = by("over").value.split(/[ ,]+/).filter(Boolean).join(",")
  const query = over && "?over=" + encodeURIComponent(over)
  const answer = await fetch("predict" + query, options).catch((error) => {
    throw error instanceof TypeError ? new Error("it could not be read, or page.py has ended") : error
  })
  for await (const line of lines(answer)) {
    if (line.waiting) tell("Others come first …")
    if (line.done) progress(line.done, line.of, `${line.done} of ${line.of} pictures`)
    if (line.error) throw new Error(line.error)
    if (line.notes) return showServed(line, file, name)
  }
  throw new Error("the answer broke off")
}

async function showServed(found, file, name) {
  const url = URL.createObjectURL(found.copy || file), article = newArticle(name)  // a full disk takes no copy
  article.freed = () => URL.revokeObjectURL(url)
  for (const note of found.notes) element(article, "p", note)
  const shown = document.createElement(found.faces ? "img" : "video")
  shown.src = url
  if (found.faces) {
    shown.alt = "the photo with its faces marked"
    await shown.decode()
    show(article, shown, found, found.faces)
    article.querySelector(".boxes").classList.toggle("marked", Boolean(found.copy))
    keep(article, name, "image", found.faces)
  } else {
    Object.assign(shown, {muted: true, playsInline: true})
    shown.onerror = () => element(article, "p", "This browser can't play H.264; save the copy.", "error")
    showFilm(article, shown, found.tracks, new Map())
    const link = element(article, "a", found.copy ? "Save the marked copy" : "")
    link.href = url
    link.download = "marked.mp4"
    keep(article, name, "track", found.tracks)
  }
}

// ---- One after the other
let control = new AbortController()
let queue = [], busy = false, stopped = false

function add(files) {
  queue.push(...files)
  if (!busy) work()
}

async function work() {
  busy = true
  stopped = false
  control = new AbortController()
  let done = 0
  while (queue.length && !stopped) {
    const {file, name} = queue.shift(), all = done + 1 + queue.length
    tell(all > 1 ? `Looking at ${name} (${done + 1} of ${all})` : `Looking at ${name}`, all > 1 ? done / all : NaN)
    try {
      await ready
      const progress = (now, end, words = `Looking at ${name}`) => tell(words, now / end)
      if (about.server) await served(file, name, progress)
      else if (!file.size) throw new Error("the file is empty")
      else if (/^video\//.test(file.type)) await video(file, name, progress)
      else await photo(file, name)
    } catch (error) {
      fail(newArticle(name), name, stopped ? new Error("stopped") : error)
    }
    done += 1
  }
  queue = []
  busy = false
  by("work").hidden = true
  if (done == 1) by("results").firstChild?.scrollIntoView({block: "nearest"})
}

function tell(words, share) {
  by("work").hidden = false
  by("state").textContent = words
  if (share >= 0) by("bar").value = share
  else by("bar").removeAttribute("value")
}

by("stop").onclick = () => {
  stopped = true
  control.abort()
}

// ---- Choosing and dropping
const PICTURE = /\.(jpe?g|png|webp|gif|bmp|avif|heic|heif|tiff?|mp4|m4v|webm|mov|mkv|ogv)$/i
by("files").onchange = () => {
  add([...by("files").files].map((file) => ({file, name: file.name})))
  by("files").value = ""
}

async function inside(entry) {
  if (entry.isFile) return [{file: await new Promise((done, no) => entry.file(done, no)), name: entry.fullPath.slice(1)}]
  const reader = entry.createReader(), found = []
  for (let some; (some = await new Promise((done, no) => reader.readEntries(done, no))).length;)
    found.push(...some)
  found.sort((a, b) => (a.name < b.name ? -1 : 1))
  const parts = []
  for (const one of found)
    if (!/^[.@]/.test(one.name) && (one.isDirectory || PICTURE.test(one.name))) parts.push(...await inside(one))
  return parts
}

addEventListener("dragover", (event) => { event.preventDefault(); by("drop").classList.add("over") })
addEventListener("dragleave", () => by("drop").classList.remove("over"))
addEventListener("drop", async (event) => {
  event.preventDefault()
  by("drop").classList.remove("over")
  const items = [...event.dataTransfer.items].filter((item) => item.kind == "file")
  // at once: after this event they are gone
  for (const {entry, file} of items.map((i) => ({entry: i.webkitGetAsEntry(), file: i.getAsFile()}))) {
    if (!entry?.isDirectory) {
      add([{file, name: file.name}])
      continue
    }
    try {
      const files = await inside(entry)
      if (!files.length) throw new Error("no photo or video in this folder")
      add(files)
    } catch (error) {
      fail(newArticle(entry.name), entry.name, error)
    }
  }
})

// ---- The camera
const live = document.querySelector("#camera video")
function closeCamera() {
  live.srcObject?.getTracks().forEach((track) => track.stop())
  live.srcObject = null
  by("camera").hidden = true
}
by("close").onclick = closeCamera
by("open").onclick = async () => {
  try {
    const stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}, facingMode: "user"}})
    closeCamera()  // that of a click before: it would stay on for ever
    live.srcObject = stream
    by("camera").hidden = false
    await loaded(live, "loadeddata")
    await ready
    if (!about.server) watch(performance.now())
  } catch (error) {
    const why = {NotAllowedError: "this browser was not allowed to use it; allow it in the address bar",
      NotFoundError: "none was found; choose a photo instead",
      NotReadableError: "another program uses it"}[error.name]
    fail(newArticle("Camera"), "Camera", why ? new Error(why) : error)
  }
}

async function watch(began) {
  const boxes = document.querySelector("#camera .boxes")
  for (let first = true; live.srcObject; first = false) {
    const size = {width: live.videoWidth, height: live.videoHeight}
    const pixels = pixelsOf(live, size.width, size.height), seconds = (performance.now() - began) / 1000
    const {faces} = await call("frame", {pixels, seconds, first}, undefined, [pixels.data.buffer])
    boxes.replaceChildren()
    for (const face of faces) boxFor(boxes, face, size, false)
    await new Promise(requestAnimationFrame)
  }
}

by("take").onclick = () => {
  const canvas = document.createElement("canvas")
  canvas.width = live.videoWidth
  canvas.height = live.videoHeight
  canvas.getContext("2d").drawImage(live, 0, 0)
  canvas.toBlob((blob) => { closeCamera(); add([{file: blob, name: "Photo"}]) }, "image/png")
}
by("open").hidden = !navigator.mediaDevices  // not given to a page of another machine without TLS

// ---- Keeping the answers
const COLUMNS = ["source", "kind", "face", "seconds", "until_seconds", "frames", "left", "top", "right",
  "bottom", "score", "turn", "age", "age_low", "age_high", "interval_probability", "at_end_of_range",
  "gender", "gender_probability", "not_sure", "gender_not_sure"]

function rows() {
  return kept.map(({article, thumb, ...row}) => ({...row,
    ...Object.fromEntries(shares(row).map(([limit, share]) => [`over_${limit}`, share]))}))
}

function save(text, name, type) {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(new Blob([text], {type}))
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}

by("json").onclick = () => save(JSON.stringify({note: about.note, model: about.model,
  faces: rows()}, null, 1), "predictions.json", "application/json")
by("csv").onclick = () => {
  const told = rows(), more = new Set(told.flatMap((row) => Object.keys(row).filter((key) => key.startsWith("over_"))))
  const names = [...COLUMNS, ...more]
  const field = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value ?? "")
  save([names, ...told.map((row) => names.map((name) => field(row[name])))].map((row) => row.join(",")).join("\n") + "\n",
    "predictions.csv", "text/csv")
}
by("clear").onclick = () => {
  for (const article of by("results").children) article.freed?.()
  by("results").replaceChildren()
  kept = []
  tidy()
}

// ---- Start
function introduce(facts) {
  about = facts
  by("promise").textContent = about.server ?
    "Pictures are looked at by the machine that this page comes from, sent nowhere else, and deleted with the answer." :
    "Pictures are looked at in this browser and never leave it; after the first visit the page works without a network."
  by("coverage").textContent = percent(about.coverage)
  by("note").textContent = about.note
  by("model").textContent = `Model: ${about.model}, by ${about.script}` + (about.licence ? `; licence: ${about.licence}` : "")
}

async function start() {
  const single = document.getElementById("about")
  const facts = single ? JSON.parse(single.textContent) : await (await fetch("about.json")).json()
  introduce(facts)
  if (facts.server) return
  const given = {facts}
  if (single) {
    given.given = await embedded()
    const script = new Blob([given.given["engine.js"]], {type: "text/javascript"})
    startEngine(URL.createObjectURL(script), "classic")
  } else {
    navigator.serviceWorker?.register("sw.js").catch(() => {})  // without it the page needs a network
    startEngine("engine.js", "module")
  }
  await call("start", given, ({loaded: done, of}) => {
    if (busy) tell(`Loading the network, once: ${Math.round(done / 1e6)} of ${Math.round(of / 1e6)} MB`, done / of)
  })
}

const ready = start()
ready.catch((error) => fail(newArticle("The page"), "The page", error))
