/* Plays Godot: loads the library in argv[1], makes an AgentkdExecutor, and gives it the
 * observations of stdin (argv[2] numbers each); actions leave on stdout as floats. It asks in turns
 * by pointers and by Variants, and calls reset before the row argv[3]. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdextension_interface.h"

/* A PackedFloat32Array here, of 16 bytes as in Godot; a Variant has a type before. */
struct array {
    float *numbers;
    int64_t size;
};
struct variant {
    int64_t type;
    struct array array;
};

static int alive; /* names, strings and arrays that are not freed */
static GDExtensionClassCreationInfo2 class_info;
static char registered[64];
static GDExtensionClassMethodInfo methods[2];
static char titles[2][16];
static int count;
static void *instance;

static void name_new(void *to, const char *text, GDExtensionBool is_static)
{
    (void)is_static;
    alive++;
    *(char **)to = strdup(text);
}
static void string_new(void *to, const char *text) { name_new(to, text, 0); }
static void name_end(void *name)
{
    alive--;
    free(*(char **)name);
}
static void array_new(void *to, const GDExtensionConstTypePtr *arguments)
{
    (void)arguments;
    alive++;
    memset(to, 0, sizeof(struct array));
}
static void array_end(void *array)
{
    alive--;
    free(((struct array *)array)->numbers);
}
static void array_size(void *array, const GDExtensionConstTypePtr *arguments, void *to, int32_t n)
{
    (void)arguments;
    (void)n;
    *(int64_t *)to = ((struct array *)array)->size;
}
static void array_resize(void *given, const GDExtensionConstTypePtr *arguments, void *to, int32_t n)
{
    struct array *const array = given;
    (void)n;
    *(int64_t *)to = 0;
    array->size = *(const int64_t *)arguments[0];
    array->numbers = realloc(array->numbers, sizeof(float) * (size_t)(array->size + 1));
}
static void copy(struct array *to, const struct array *from)
{
    array_new(to, NULL);
    to->size = from->size;
    to->numbers = malloc(sizeof(float) * (size_t)(from->size + 1));
    memcpy(to->numbers, from->numbers, sizeof(float) * (size_t)from->size);
}
static void to_variant(void *to, void *array)
{
    ((struct variant *)to)->type = GDEXTENSION_VARIANT_TYPE_PACKED_FLOAT32_ARRAY;
    copy(&((struct variant *)to)->array, array);
}
static void from_variant(void *to, void *variant)
{
    copy(to, &((struct variant *)variant)->array);
}
static float *at(void *array, int64_t i) { return ((struct array *)array)->numbers + i; }
static const float *at_const(const void *array, int64_t i)
{
    return ((const struct array *)array)->numbers + i;
}
static void print_error(const char *text, const char *function, const char *file, int32_t line,
                        GDExtensionBool notify)
{
    (void)file;
    (void)line;
    (void)notify;
    fprintf(stderr, "%s: %s\n", function, text);
}
static void *construct(const void *name)
{
    return strcmp(*(char *const *)name, "RefCounted") == 0 ? &alive : NULL;
}
static void set_instance(void *object, const void *name, void *self)
{
    if (object == &alive && strcmp(*(char *const *)name, registered) == 0)
        instance = self;
}
static void add_class(void *own, const void *name, const void *parent,
                      const GDExtensionClassCreationInfo2 *info)
{
    (void)own;
    (void)parent;
    snprintf(registered, sizeof registered, "%s", *(char *const *)name);
    class_info = *info;
}
static void remove_class(void *own, const void *name)
{
    (void)own;
    (void)name;
    registered[0] = 0;
}
static void add_method(void *own, const void *name, const GDExtensionClassMethodInfo *info)
{
    (void)own;
    (void)name;
    snprintf(titles[count], sizeof titles[count], "%s", *(char **)info->name);
    methods[count++] = *info;
}
static GDExtensionPtrBuiltInMethod builtin(GDExtensionVariantType type, const void *name,
                                           int64_t hash)
{
    (void)type;
    if (strcmp(*(char *const *)name, "resize") == 0 && hash == 848867239)
        return array_resize;
    return hash == 3173160232 ? array_size : NULL;
}
static GDExtensionPtrConstructor constructor(GDExtensionVariantType type, int32_t which)
{
    (void)type;
    (void)which;
    return array_new;
}
static GDExtensionPtrDestructor destructor(GDExtensionVariantType type)
{
    return type == GDEXTENSION_VARIANT_TYPE_PACKED_FLOAT32_ARRAY ? array_end : name_end;
}
static GDExtensionVariantFromTypeConstructorFunc to_of(GDExtensionVariantType type)
{
    (void)type;
    return to_variant;
}
static GDExtensionTypeFromVariantConstructorFunc from_of(GDExtensionVariantType type)
{
    (void)type;
    return from_variant;
}

typedef GDExtensionInterfaceFunctionPtr any;
static any find(const char *name)
{
    static const struct {
        const char *name;
        any function;
    } all[] = {
        {"classdb_construct_object", (any)construct},
        {"classdb_register_extension_class2", (any)add_class},
        {"classdb_register_extension_class_method", (any)add_method},
        {"classdb_unregister_extension_class", (any)remove_class},
        {"object_set_instance", (any)set_instance},
        {"packed_float32_array_operator_index", (any)at},
        {"packed_float32_array_operator_index_const", (any)at_const},
        {"print_error", (any)print_error},
        {"string_name_new_with_latin1_chars", (any)name_new},
        {"string_new_with_utf8_chars", (any)string_new},
        {"variant_get_ptr_builtin_method", (any)builtin},
        {"variant_get_ptr_constructor", (any)constructor},
        {"variant_get_ptr_destructor", (any)destructor},
        {"get_variant_from_type_constructor", (any)to_of},
        {"get_variant_to_type_constructor", (any)from_of},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, name) == 0)
            return all[i].function;
    return NULL;
}

static GDExtensionClassMethodInfo *method(const char *title)
{
    for (int i = 0; i < count; i++)
        if (strcmp(titles[i], title) == 0)
            return &methods[i];
    exit(3);
}

typedef GDExtensionBool (*entry)(GDExtensionInterfaceGetProcAddress, void *,
                                 GDExtensionInitialization *);

int main(int argc, char **argv)
{
    GDExtensionInitialization how;
    GDExtensionCallError error;
    struct array obs, action;
    const int64_t size = argc > 3 ? atoi(argv[2]) : 0;
    const void *const length = &size;
    int64_t ignored;
    void *const loaded = argc > 3 ? dlopen(argv[1], RTLD_NOW) : NULL;
    entry init;
    if (loaded == NULL)
        return 2;
    *(void **)&init = dlsym(loaded, "agentkd_init");
    if (init == NULL || init(find, &how, &how) != 1)
        return 2;
    for (int level = 0; level < 4; level++)
        how.initialize(how.userdata, (GDExtensionInitializationLevel)level);
    class_info.create_instance_func(class_info.class_userdata);
    array_new(&obs, NULL);
    array_new(&action, NULL);
    array_resize(&obs, &length, &ignored, 1);
    for (int row = 0; fread(obs.numbers, sizeof(float), (size_t)size, stdin) == (size_t)size;
         row++) {
        const void *given[1] = {&obs};
        if (row == atoi(argv[3]))
            method("reset")->call_func(NULL, instance, NULL, 0, NULL, &error);
        if (row % 2) {
            method("act")->ptrcall_func(NULL, instance, given, &action);
            fwrite(action.numbers, sizeof(float), (size_t)action.size, stdout);
        } else {
            struct variant whole = {32, {obs.numbers, obs.size}}, answer = {0, {NULL, 0}};
            given[0] = &whole;
            method("act")->call_func(NULL, instance, given, 1, &answer, &error);
            fwrite(answer.array.numbers, sizeof(float), (size_t)answer.array.size, stdout);
            array_end(&answer.array);
        }
    }
    array_end(&obs);
    array_end(&action);
    class_info.free_instance_func(class_info.class_userdata, instance);
    how.deinitialize(how.userdata, GDEXTENSION_INITIALIZATION_SCENE);
    if (alive != 0 || registered[0] != 0)
        fprintf(stderr, "%d values were not freed\n", alive);
    return alive != 0 || registered[0] != 0;
}
