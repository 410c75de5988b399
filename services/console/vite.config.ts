import { fileURLToPath } from 'node:url'
import react from '@vitejs/plugin-react'
import { defineConfig } from 'vitest/config'

// Where `npm run dev` finds a registry.
const target = process.env.ALMANAC_URL ?? 'http://127.0.0.1:8080'
// With the Host that the browser asked for: the registry refuses pages of other sites.
const registry = { target, changeOrigin: false }

export default defineConfig({
  plugins: [react()],
  resolve: {
    // The form library's own validator compiles code, which the pages' policy forbids.
    alias: { '@rjsf/validator-ajv8': fileURLToPath(new URL('src/screens/editor/validator.ts', import.meta.url)) },
  },
  build: {
    outDir: '.generated/dist',
    emptyOutDir: true,
    target: 'es2022',
    manifest: true,
    // Scripts and styles of their own files: the pages' policy permits no others.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1000,
  },
  server: { proxy: { '/api': registry, '/openapi.json': registry, '/docs': registry } },
  test: {
    environment: 'jsdom',
    include: ['src/**/*.test.{ts,tsx}'],
    setupFiles: ['src/testing.ts'],
    css: false,
    maxWorkers: '100%',
    testTimeout: 20_000,
    server: { deps: { inline: [/@rjsf\//] } },
  },
})
