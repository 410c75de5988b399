// Completes what Vite built and puts it where the registry embeds it: a .gz beside
// each text, and the viewer of the API under docs/.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { constants, gzipSync } from 'node:zlib'

const here = dirname(fileURLToPath(import.meta.url))
const built = join(here, '../.generated/dist')
const target = join(here, '../../registry/internal/console/dist')
const viewer = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'))

const docs = join(built, 'docs')
mkdirSync(docs, { recursive: true })
for (const name of ['swagger-ui.css', 'swagger-ui-bundle.js']) {
  writeFileSync(join(docs, name), readFileSync(join(viewer, name)))
}
cpSync(join(here, 'viewer'), docs, { recursive: true })

const manifest = JSON.parse(readFileSync(join(built, '.vite/manifest.json'), 'utf8'))
rmSync(join(built, '.vite'), { recursive: true })

const packed = new Map()
function pack(folder) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    if (statSync(path).isDirectory()) {
      pack(path)
    } else if (['.js', '.css', '.svg', '.html'].includes(extname(name))) {
      const small = gzipSync(readFileSync(path), { level: constants.Z_BEST_COMPRESSION })
      writeFileSync(path + '.gz', small)
      packed.set(path, small.length)
    }
  }
}
pack(built)

// What a page loads is its chunk, what that imports, and so on.
function scripts(chunk, seen = new Set()) {
  if (!chunk || seen.has(chunk.file)) return seen
  seen.add(chunk.file)
  for (const name of chunk.imports ?? []) scripts(manifest[name], seen)
  return seen
}
const size = (chunk) => [...scripts(chunk)].reduce((sum, file) => sum + (packed.get(join(built, file)) ?? 0), 0)
for (const [name, chunk] of Object.entries(manifest)) {
  if (chunk.isEntry || chunk.isDynamicEntry) console.log(`${(size(chunk) / 1000).toFixed(0).padStart(5)} kB  ${name} with what it imports, JavaScript, gzipped`)
}

mkdirSync(target, { recursive: true })
for (const name of readdirSync(target)) {
  if (name !== '.gitkeep') rmSync(join(target, name), { recursive: true })
}
cpSync(built, target, { recursive: true })
if (!existsSync(join(target, 'index.html'))) throw new Error('the console was not built')
