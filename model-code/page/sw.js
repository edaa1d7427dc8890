// Keeps the page's files, so that it works without a network. export.py names their version here.
"use strict"
const VERSION = "none"

addEventListener("install", (event) => event.waitUntil((async () => {
  const {precache} = await (await fetch("about.json")).json()
  await (await caches.open(VERSION)).addAll(["./", ...precache])
  await skipWaiting()
})()))

addEventListener("activate", (event) => event.waitUntil((async () => {
  for (const name of await caches.keys()) if (name != VERSION) await caches.delete(name)
  await clients.claim()
})()))

addEventListener("fetch", (event) => event.respondWith((async () =>
  await caches.match(event.request, {ignoreSearch: true}) ?? fetch(event.request))()))
