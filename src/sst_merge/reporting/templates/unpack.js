// Unpacks the library of the page; false where a browser cannot.
const unpacked = async () => {
  if (!("DecompressionStream" in window)) return false;
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  return true;
};
// Colours of the page, light or dark.
const pageColor = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
